// graft.v1.JobService.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/job.pb.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/progress.h"
#include "scheduler/service/watchers.h"

namespace graft::scheduler {

class JobService {
 public:
  JobService(ServiceContext context, ProgressBoard& progress, Watchers& watchers)
      : context_(context), progress_(progress), watchers_(watchers) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  // A job that passed every check that needs no turn of the loop.
  struct Prepared {
    graft::v1::Job body;
    JobKey key;
    std::vector<std::pair<std::string, std::string>> digests;  // version, digest
  };

  void CreateJob(CallPtr call, const graft::v1::CreateJobRequest& request,
                 rpc::Responder<graft::v1::Job> responder);
  absl::StatusOr<graft::v1::Job> GetJob(const rpc::Call& call,
                                        const graft::v1::GetJobRequest& request);
  absl::StatusOr<graft::v1::BatchGetJobsResponse> BatchGetJobs(
      const rpc::Call& call, const graft::v1::BatchGetJobsRequest& request);
  absl::StatusOr<graft::v1::ListJobsResponse> ListJobs(const rpc::Call& call,
                                                       const graft::v1::ListJobsRequest& request);
  void CancelJob(CallPtr call, const graft::v1::CancelJobRequest& request,
                 rpc::Responder<graft::v1::Job> responder);
  void PauseJob(CallPtr call, const graft::v1::PauseJobRequest& request,
                rpc::Responder<graft::v1::Job> responder);
  void ResumeJob(CallPtr call, const graft::v1::ResumeJobRequest& request,
                 rpc::Responder<graft::v1::Job> responder);
  void DeleteJob(CallPtr call, const graft::v1::DeleteJobRequest& request,
                 rpc::Responder<google::protobuf::Empty> responder);
  void WatchJobs(CallPtr call, const graft::v1::WatchJobsRequest& request,
                 std::shared_ptr<rpc::StreamWriter<graft::v1::WatchJobsResponse>> writer);
  void WaitJob(CallPtr call, const graft::v1::WaitJobRequest& request,
               rpc::Responder<graft::v1::WaitJobResponse> responder);
  absl::StatusOr<graft::v1::ListAttemptsResponse> ListAttempts(
      const rpc::Call& call, const graft::v1::ListAttemptsRequest& request);
  absl::StatusOr<graft::v1::ListCheckpointsResponse> ListCheckpoints(
      const rpc::Call& call, const graft::v1::ListCheckpointsRequest& request);
  void ReadLogs(CallPtr call, const graft::v1::ReadLogsRequest& request,
                std::shared_ptr<rpc::StreamWriter<graft::v1::ReadLogsResponse>> writer);
  absl::StatusOr<graft::v1::QueryMetricsResponse> QueryMetrics(
      const rpc::Call& call, const graft::v1::QueryMetricsRequest& request);
  void WatchMetrics(CallPtr call, const graft::v1::WatchMetricsRequest& request,
                    std::shared_ptr<rpc::StreamWriter<graft::v1::WatchMetricsResponse>> writer);
  void ExplainJob(CallPtr call, const graft::v1::ExplainJobRequest& request,
                  rpc::Responder<graft::v1::Explanation> responder);
  void ValidateJob(CallPtr call, const graft::v1::ValidateJobRequest& request,
                   rpc::Responder<graft::v1::ValidateJobResponse> responder);

  // Blocking: asks the fileservice.
  SpecCheck CheckSpec(const rpc::Call& call, const graft::v1::JobSpec& spec, Prepared& prepared);
  absl::StatusOr<Prepared> Prepare(const rpc::Call& call,
                                   const graft::v1::CreateJobRequest& request);
  absl::StatusOr<graft::v1::Job> Insert(Turn& turn, const rpc::Call& call,
                                        const graft::v1::CreateJobRequest& request,
                                        Prepared prepared);
  void Command(CallPtr call, const std::string& name, const std::string& etag, JobVerb verb,
               const std::string& why, rpc::Responder<graft::v1::Job> responder);
  absl::StatusOr<graft::v1::Job> Read(const std::string& name) const;
  void FollowLogs(CallPtr call, graft::v1::ReadLogsRequest request, std::string cursor,
                  std::shared_ptr<rpc::StreamWriter<graft::v1::ReadLogsResponse>> writer);
  void FollowMetrics(CallPtr call, graft::v1::WatchMetricsRequest request,
                     std::shared_ptr<rpc::StreamWriter<graft::v1::WatchMetricsResponse>> writer);

  const ServiceContext context_;
  ProgressBoard& progress_;
  Watchers& watchers_;
};

}  // namespace graft::scheduler
