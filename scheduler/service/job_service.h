// graft.v1.JobService.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/job.pb.h"
#include "scheduler/core/event.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/places.h"
#include "scheduler/service/progress.h"
#include "scheduler/service/start_from.h"

namespace graft::scheduler {

// Whether the state is terminal.
bool IsOver(graft::v1::JobState state);

class JobService {
 public:
  JobService(const ServiceContext& context, ProgressBoard& progress, const PlaceBoard& places)
      : context_(context), progress_(progress), places_(places) {}
  rpc::Service Bind();

  // Deletes the jobs that were to be deleted once they are over, and now are.
  void EraseDoomed();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  // A job that passed every check that needs no turn of the loop.
  struct Prepared {
    std::string workspace;
    graft::v1::Job body;
    JobKey key;
    std::vector<std::pair<std::string, std::string>> digests;  // version, digest
    graft::v1::ParallelismSection asked;                       // as it was sent
    graft::v1::ModelSpec model;
    int64_t dataset_bytes = 0;
    Checkpoint start;  // that it goes on from as if it were its own; empty: none
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
  void UpdateJob(CallPtr call, const graft::v1::UpdateJobRequest& request,
                 rpc::Responder<graft::v1::Job> responder);
  void ForkJob(CallPtr call, const graft::v1::ForkJobRequest& request,
               rpc::Responder<graft::v1::Job> responder);
  void CheckpointJob(CallPtr call, const graft::v1::CheckpointJobRequest& request,
                     rpc::Responder<graft::v1::Job> responder);
  void FinishJob(CallPtr call, const graft::v1::FinishJobRequest& request,
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
  void ExplainSpec(CallPtr call, const graft::v1::ExplainJobRequest& request,
                   std::shared_ptr<rpc::Responder<graft::v1::Explanation>> answer);
  void ValidateJob(CallPtr call, const graft::v1::ValidateJobRequest& request,
                   rpc::Responder<graft::v1::ValidateJobResponse> responder);

  void EstimateJob(CallPtr call, const graft::v1::EstimateJobRequest& request,
                   rpc::Responder<graft::v1::EstimateJobResponse> responder);
  // Blocking: reads the model's files.
  absl::StatusOr<graft::v1::EstimateJobResponse> Estimate(
      const rpc::Call& call, const graft::v1::EstimateJobRequest& request);
  absl::StatusOr<graft::v1::GetJobSchemaResponse> GetJobSchema(
      const rpc::Call& call, const graft::v1::GetJobSchemaRequest& request);

  // Blocking: asks the fileservice.
  SpecCheck CheckSpec(const rpc::Call& call, const graft::v1::JobSpec& spec, Prepared& prepared);
  // What its first attempt begins with.
  void TakeStart(const absl::StatusOr<StartSource>& start, SpecCheck& check, Prepared& prepared);
  // What the core decides on; device and layout are chosen where they are left open, and told in
  // the body. On the loop.
  static absl::StatusOr<JobRequest> RequestFor(const Core& core, Prepared& prepared);
  static absl::Status FitGpus(const ClusterView& cluster, Prepared& prepared, JobRequest& job);
  // A specification that is no job, as far as RequestFor needs it. Blocking.
  absl::StatusOr<SpecCheck> PrepareUnsubmitted(const rpc::Call& call, const std::string& parent,
                                               const graft::v1::JobSpec& spec, Prepared& prepared);
  absl::StatusOr<Prepared> Prepare(const rpc::Call& call,
                                   const graft::v1::CreateJobRequest& request);
  // Prepares and inserts; answers by itself.
  void Create(CallPtr call, graft::v1::CreateJobRequest request, std::string forked_from,
              rpc::Responder<graft::v1::Job> responder);
  absl::StatusOr<graft::v1::CreateJobRequest> ForkRequest(const graft::v1::ForkJobRequest& request,
                                                          const graft::v1::Job& from) const;
  absl::StatusOr<graft::v1::Job> Insert(Turn& turn, const rpc::Call& call,
                                        const graft::v1::CreateJobRequest& request,
                                        Prepared prepared);
  void Command(CallPtr call, const std::string& name, const std::string& etag, JobVerb verb,
               const std::string& why, rpc::Responder<graft::v1::Job> responder);
  absl::StatusOr<graft::v1::Job> Read(const std::string& name) const;
  // Lays what workers said last and its place in the queue over a job that is not over.
  void Overlay(graft::v1::Job& job) const;

  struct JobWatch;
  using JobWriter = rpc::StreamWriter<graft::v1::WatchJobsResponse>;
  absl::Status SendSnapshot(const rpc::Call& call, JobWatch& watch, JobWriter& writer);
  absl::Status SendChanges(const rpc::Call& call, JobWatch& watch, JobWriter& writer);
  absl::Status SendJob(const rpc::Call& call, JobWatch& watch, const Record& record, bool snapshot,
                       int64_t revision, JobWriter& writer);
  absl::Status SendBookmark(JobWatch& watch, JobWriter& writer);

  void FollowLogs(CallPtr call, graft::v1::ReadLogsRequest request, std::string cursor,
                  std::shared_ptr<rpc::StreamWriter<graft::v1::ReadLogsResponse>> writer);
  void FollowMetrics(CallPtr call, graft::v1::WatchMetricsRequest request,
                     std::shared_ptr<rpc::StreamWriter<graft::v1::WatchMetricsResponse>> writer);

  const ServiceContext& context_;
  ProgressBoard& progress_;
  const PlaceBoard& places_;
};

}  // namespace graft::scheduler
