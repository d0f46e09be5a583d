// A scheduler over a store in memory and real gRPC on a free port, with a fileservice that says
// yes, for the tests of the services.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "graft/v1/job.grpc.pb.h"
#include "graft/v1/model.pb.h"
#include "gtest/gtest.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/testing/fake_files.h"
#include "scheduler/service/testing/start.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {

class ServiceTest : public ::testing::Test {
 protected:
  ServiceTest() {
    model_spec_.set_attention_heads(9);
    model_spec_.set_kv_heads(3);
    model_spec_.set_context_length(2048);
  }
  void SetUp() override { Start(true); }

  // `open`: callers without a token are administrators.
  void Start(bool open) {
    AddModel("default", "base");
    signer_ = TestSigner();
    options_.no_auth = open;
    GRAFT_ASSERT_OK_AND_ASSIGN(
        server_, StartTestServer({store_, clock_, random_, files_, *signer_}, options_));
    channel_ = ChannelTo(*server_);
    jobs_ = graft::v1::JobService::NewStub(channel_);
  }

  // A model with numbers, straight into the store.
  void AddModel(const std::string& workspace, const std::string& id) {
    graft::v1::Model model;
    model.set_name(absl::StrCat("workspaces/", workspace, "/models/", id));
    model.set_fileset(absl::StrCat("workspaces/", workspace, "/filesets/", id, "/versions/1"));
    model.set_state(graft::v1::Model::STATE_READY);
    *model.mutable_spec() = model_spec_;
    ASSERT_THAT(store_.Commit({.writes = {{Family::kRecords, ModelRecordKey(workspace, id),
                                           EncodeResource(model)}}}),
                IsOk());
  }

  // An access token with these roles.
  std::string TokenFor(const std::string& subject, std::map<std::string, rpc::Role> roles) {
    auto token = signer_->Sign({.issuer = "graft-scheduler",
                                .audience = "graft",
                                .subject = subject,
                                .roles = std::move(roles),
                                .jti = random_.Id(),
                                .expires = clock_.WallNow() + absl::Minutes(10)});
    return *token;
  }

  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub& stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response& response, const std::string& token = "") {
    grpc::ClientContext context;
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    return rpc::FromGrpcStatus((stub.*method)(&context, request, &response));
  }

  graft::v1::CreateJobRequest NewJob(const std::string& id) {
    graft::v1::CreateJobRequest request;
    request.set_parent("workspaces/default");
    request.set_job_id(id);
    auto& spec = *request.mutable_job()->mutable_spec();
    spec.mutable_model()->set_base("workspaces/default/models/base");
    spec.mutable_dataset()->add_training()->set_fileset("workspaces/default/filesets/rows");
    return request;
  }
  graft::v1::Job MakeJob(const std::string& id) {
    graft::v1::Job job;
    EXPECT_THAT(Call(*jobs_, &graft::v1::JobService::Stub::CreateJob, NewJob(id), job), IsOk());
    return job;
  }

  SchedulerOptions options_;         // of the next Start
  graft::v1::ModelSpec model_spec_;  // of the next AddModel
  MemDisk disk_;
  MemStore store_{disk_};
  RealClock clock_;
  SecureRandom random_;
  FakeFiles files_;
  std::unique_ptr<rpc::TokenSigner> signer_;
  std::unique_ptr<SchedulerServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<graft::v1::JobService::Stub> jobs_;
};

}  // namespace graft::scheduler
