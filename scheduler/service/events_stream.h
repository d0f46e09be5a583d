// The stream of metrics and logs from an agent, and how its entries are kept.
//
// Keys are {job}\0{attempt, BE32}{rank + 1, BE32}{sequence, BE64}: what is sent twice falls on the
// same key. Values are JSON. An acknowledged batch is in the store's log; the next synced commit
// makes it durable against a loss of power, a crash of the scheduler alone loses nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "graft/agent/v1/agent.pb.h"
#include "graft/v1/job.pb.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"
#include "scheduler/core/job_state.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

grpc::ServerBidiReactor<graft::agent::v1::PushEventsRequest, graft::agent::v1::PushEventsResponse>*
NewEventsStream(std::shared_ptr<rpc::Call> call, Store& store);

// Writes one batch; answers the acknowledgement.
absl::StatusOr<graft::agent::v1::PushEventsResponse::Ack> KeepEvents(
    Store& store, const graft::agent::v1::EventBatch& batch);

std::string SeriesPrefix(const JobKey& job);

// Metrics of a job by range, names with `*`, later attempts replacing what they repeat, at most
// `max_points` a series.
absl::StatusOr<graft::v1::QueryMetricsResponse> ReadMetrics(
    const Store& store, const JobKey& job, const graft::v1::QueryMetricsRequest& request);
// Log lines after `cursor` (empty: from the start), in the order of attempt, rank and sequence.
absl::StatusOr<graft::v1::ReadLogsResponse> ReadLogLines(const Store& store, const JobKey& job,
                                                         const graft::v1::ReadLogsRequest& request,
                                                         const std::string& cursor);

}  // namespace graft::scheduler
