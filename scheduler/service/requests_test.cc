// Requests of every method filled at random from the descriptors: whatever is asked, the server
// goes on, and none is told as a fault of its own. tests/fuzz/request_fuzz.cc searches further.
#include "google/protobuf/dynamic_message.h"
#include "scheduler/service/testing/generic_call.h"
#include "scheduler/service/testing/test_server.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;

constexpr const char* kTexts[] = {"",
                                  "-",
                                  "aa",
                                  "default",
                                  "workspaces/default",
                                  "workspaces/-",
                                  "workspaces/default/jobs/aa",
                                  "workspaces/default/models/base",
                                  "workspaces/default/models/base/adapters/aa",
                                  "workspaces/default/filesets/rows",
                                  "workspaces/default/templates/aa/versions/1",
                                  "workspaces/default/secrets/aa",
                                  "workspaces/../jobs/aa",
                                  "users/admin",
                                  "users/me",
                                  "queues/default",
                                  "nodes/n0",
                                  "roleBindings/admin-cluster",
                                  "name = \"a*\" AND NOT state = READY",
                                  "create_time desc, name",
                                  "cluster",
                                  "\x01\x7f\xc3\xa9/%2e%2e"};

class Filler {
 public:
  explicit Filler(uint64_t seed) : random_(seed) {}

  void Fill(Message& message, int depth = 0) {
    const auto& reflection = *message.GetReflection();
    for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
      const FieldDescriptor& field = *message.GetDescriptor()->field(i);
      if (random_.Uniform(3) == 0) continue;
      const int count = field.is_repeated() ? static_cast<int>(random_.Uniform(3)) : 1;
      for (int j = 0; j < count; ++j) Set(message, reflection, field, depth);
    }
  }

 private:
  void Set(Message& message, const google::protobuf::Reflection& reflection,
           const FieldDescriptor& field, int depth) {
    const bool many = field.is_repeated();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        if (depth > 5) return;
        return Fill(many ? *reflection.AddMessage(&message, &field)
                         : *reflection.MutableMessage(&message, &field),
                    depth + 1);
      case FieldDescriptor::CPPTYPE_STRING: {
        const std::string text = field.type() == FieldDescriptor::TYPE_BYTES
                                     ? random_.Bytes(random_.Uniform(64))
                                     : Text();
        return many ? reflection.AddString(&message, &field, text)
                    : reflection.SetString(&message, &field, text);
      }
      case FieldDescriptor::CPPTYPE_INT32:
        return many ? reflection.AddInt32(&message, &field, static_cast<int32_t>(Number()))
                    : reflection.SetInt32(&message, &field, static_cast<int32_t>(Number()));
      case FieldDescriptor::CPPTYPE_INT64:
        return many ? reflection.AddInt64(&message, &field, Number())
                    : reflection.SetInt64(&message, &field, Number());
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return many ? reflection.AddDouble(&message, &field, Real())
                    : reflection.SetDouble(&message, &field, Real());
      case FieldDescriptor::CPPTYPE_BOOL:
        return many ? reflection.AddBool(&message, &field, random_.Uniform(2) == 0)
                    : reflection.SetBool(&message, &field, random_.Uniform(2) == 0);
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int value = static_cast<int>(random_.Uniform(12));
        return many ? reflection.AddEnumValue(&message, &field, value)
                    : reflection.SetEnumValue(&message, &field, value);
      }
      default:
        return;
    }
  }
  std::string Text() {
    // Map keys and values must be UTF-8, or the message would not be sent.
    return kTexts[random_.Uniform(std::size(kTexts))];
  }
  int64_t Number() {
    constexpr int64_t kNumbers[] = {0,       1,         2,         8,         -1,       1000,
                                    1000000, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
    return kNumbers[random_.Uniform(std::size(kNumbers))];
  }
  double Real() {
    const double kReals[] = {0, 1, -1, 1e-4, 1e300, std::nan(""), INFINITY};
    return kReals[random_.Uniform(std::size(kReals))];
  }
  SeededRandom random_;
};

using RequestsTest = ServiceTest;

TEST_F(RequestsTest, NothingAClientSendsIsAFaultOfTheServers) {
  MakeJob("aa");
  const auto& pool = *google::protobuf::DescriptorPool::generated_pool();
  google::protobuf::DynamicMessageFactory factory;
  GenericCaller caller(channel_);
  Filler filler(7);
  int calls = 0;
  for (int round = 0; round < graft::testing::ByTier(6, 100, 2000); ++round) {
    for (const char* name : kContractServices) {
      const auto* service = pool.FindServiceByName(name);
      ASSERT_NE(service, nullptr) << name;
      for (int i = 0; i < service->method_count(); ++i) {
        const MethodDescriptor& method = *service->method(i);
        if (method.client_streaming()) continue;
        std::unique_ptr<Message> request(factory.GetPrototype(method.input_type())->New());
        filler.Fill(*request);
        const absl::Status status =
            caller.Call(method, request->SerializeAsString(), "", std::chrono::milliseconds(300));
        ++calls;
        const bool fault = absl::IsInternal(status) || absl::IsUnknown(status) ||
                           absl::IsDataLoss(status) ||
                           (absl::IsUnavailable(status) &&
                            status.message().find("fileservice") == absl::string_view::npos &&
                            status.message().find("model files") == absl::string_view::npos);
        EXPECT_FALSE(fault) << method.full_name() << ": " << status << "\n"
                            << request->ShortDebugString();
        if (fault) return;
      }
    }
  }
  EXPECT_GT(calls, 500);
  // It serves on.
  graft::v1::ListJobsRequest list;
  list.set_parent("workspaces/default");
  graft::v1::ListJobsResponse response;
  EXPECT_THAT(Call(*jobs_, &graft::v1::JobService::Stub::ListJobs, list, response), IsOk());
}

}  // namespace
}  // namespace graft::scheduler
