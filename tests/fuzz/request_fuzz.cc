// Every request of the scheduler's services and of its workers' protocol from bytes, through the
// real door and the real handlers over a store in memory with a job and a node in it. An input is
//
//   JobService.CreateJob          or two bytes that say which method
//   parent: "workspaces/default"  text format, or else bytes of the message
//
// Nothing a client sends may end the server, or be told as a fault of its own.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "graft/v1/job.grpc.pb.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/testing/fake_files.h"
#include "scheduler/service/testing/generic_call.h"
#include "scheduler/service/testing/start.h"
#include "scheduler/store/mem_store.h"

// Descriptors of every service must be linked in.
#include "graft/v1/auth.pb.h"
#include "graft/v1/evaluation.pb.h"
#include "graft/v1/event.pb.h"
#include "graft/v1/inference.pb.h"
#include "graft/v1/notification.pb.h"

namespace {

using namespace graft;
using namespace graft::scheduler;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr char kAgentService[] = "graft.agent.v1.AgentService";
// Calls that are held open end here.
constexpr std::chrono::milliseconds kTimeout(200);

struct World {
  MemDisk disk;
  MemStore store{disk};
  RealClock clock;
  SecureRandom random;
  FakeFiles files;
  std::unique_ptr<rpc::TokenSigner> signer;
  std::unique_ptr<SchedulerServer> server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<GenericCaller> caller;
  std::vector<const MethodDescriptor*> methods;
  std::string worker_token;

  World() {
    AddModel();
    signer = TestSigner();
    auto started = StartTestServer({store, clock, random, files, *signer}, {.no_auth = true});
    GRAFT_CHECK_OK(started.status());
    server = *std::move(started);
    channel = ChannelTo(*server);
    caller = std::make_unique<GenericCaller>(channel);
    const auto& pool = *google::protobuf::DescriptorPool::generated_pool();
    std::vector<std::string> services(std::begin(kContractServices), std::end(kContractServices));
    services.push_back(kAgentService);
    for (const std::string& name : services) {
      const auto* service = pool.FindServiceByName(name);
      GRAFT_CHECK(service != nullptr) << name;
      for (int i = 0; i < service->method_count(); ++i) methods.push_back(service->method(i));
    }
    AddNode();
    AddJob();
  }

  // "JobService.CreateJob" and the rest; nullptr where the first line names none.
  const MethodDescriptor* Named(absl::string_view& input) const {
    const absl::string_view line = input.substr(0, input.find('\n'));
    for (const MethodDescriptor* method : methods) {
      if (!absl::EndsWith(line, method->name())) continue;
      if (line != absl::StrCat(method->service()->name(), ".", method->name())) continue;
      input.remove_prefix(std::min(line.size() + 1, input.size()));
      return method;
    }
    return nullptr;
  }

 private:
  void AddModel() {
    v1::Model model;
    model.set_name("workspaces/default/models/base");
    model.set_fileset("workspaces/default/filesets/base/versions/1");
    model.set_state(v1::Model::STATE_READY);
    model.mutable_spec()->set_attention_heads(8);
    model.mutable_spec()->set_kv_heads(4);
    model.mutable_spec()->set_layers(4);
    model.mutable_spec()->set_hidden_size(64);
    model.mutable_spec()->set_parameters(1'000'000);
    const std::string key = ModelRecordKey("default", "base");
    GRAFT_CHECK_OK(
        store.Commit({.writes = {{Family::kRecords, key, EncodeResource(model)}}}).status());
  }
  void AddNode() {
    grpc::ClientContext joining;
    v1::CreateJoinTokenResponse token;
    GRAFT_CHECK(v1::NodeService::NewStub(channel)->CreateJoinToken(&joining, {}, &token).ok());
    agent::v1::RegisterRequest introduction;
    introduction.set_join_token(token.token());
    introduction.add_protocol_versions(1);
    introduction.set_node_id("n0");
    v1::Device& device = *introduction.mutable_inventory()->add_devices();
    device.set_kind(v1::Device::KIND_CPU);
    device.set_health(v1::Device::HEALTH_OK);
    grpc::ClientContext context;
    agent::v1::RegisterResponse registered;
    GRAFT_CHECK(agent::v1::AgentService::NewStub(channel)
                    ->Register(&context, introduction, &registered)
                    .ok());
    worker_token = registered.access_token();
  }
  void AddJob() {
    v1::CreateJobRequest request;
    request.set_parent("workspaces/default");
    request.set_job_id("jj");
    auto& spec = *request.mutable_job()->mutable_spec();
    spec.mutable_model()->set_base("workspaces/default/models/base");
    spec.mutable_dataset()->add_training()->set_fileset("workspaces/default/filesets/rows");
    grpc::ClientContext context;
    v1::Job job;
    const grpc::Status made = v1::JobService::NewStub(channel)->CreateJob(&context, request, &job);
    GRAFT_CHECK(made.ok()) << made.error_message();
  }
};

struct Silent final : google::protobuf::io::ErrorCollector {
  void AddError(int, int, const std::string&) override {}
};

// The bytes to send; false where they are no message, which gRPC refuses with INTERNAL.
bool Bytes(const MethodDescriptor& method, const std::string& input, std::string& bytes) {
  const std::unique_ptr<Message> message(google::protobuf::MessageFactory::generated_factory()
                                             ->GetPrototype(method.input_type())
                                             ->New());
  Silent silent;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&silent);
  parser.SetRecursionLimit(100);
  // Without what UTF-8 forbids, which does not parse on the other side.
  if (parser.ParseFromString(input, message.get())) {
    bytes = message->SerializeAsString();
    return message->ParseFromString(bytes);
  }
  bytes = input;
  return message->ParseFromString(bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* world = new World;
  absl::string_view input(reinterpret_cast<const char*>(data), size);
  const MethodDescriptor* method = world->Named(input);
  if (method == nullptr) {
    if (size < 2) return 0;
    method = world->methods[(size_t{data[0]} << 8 | data[1]) % world->methods.size()];
    input.remove_prefix(2);
  }
  std::string bytes;
  const bool parses = Bytes(*method, std::string(input), bytes);
  const bool worker = method->service()->full_name() == kAgentService;
  const absl::Status status =
      world->caller->Call(*method, bytes, worker ? world->worker_token : "", kTimeout);
  GRAFT_CHECK(!parses || (!absl::IsInternal(status) && !absl::IsUnknown(status)))
      << method->full_name() << ": " << status.ToString();
  return 0;
}
