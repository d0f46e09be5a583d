// Every request of the scheduler's services from bytes, through the real door and the real handlers
// over a store in memory. The first two bytes say which method. Nothing a client sends may end the
// server, or be told as a fault of its own.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/random.h"
#include "scheduler/service/testing/fake_files.h"
#include "scheduler/service/testing/generic_call.h"
#include "scheduler/service/testing/start.h"
#include "scheduler/store/mem_store.h"

// Descriptors of every service must be linked in.
#include "graft/v1/auth.pb.h"
#include "graft/v1/evaluation.pb.h"
#include "graft/v1/event.pb.h"
#include "graft/v1/inference.pb.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/notification.pb.h"

namespace {

using namespace graft;
using namespace graft::scheduler;

struct World {
  MemDisk disk;
  MemStore store{disk};
  RealClock clock;
  SecureRandom random;
  FakeFiles files;
  std::unique_ptr<rpc::TokenSigner> signer;
  std::unique_ptr<SchedulerServer> server;
  std::unique_ptr<GenericCaller> caller;
  std::vector<const google::protobuf::MethodDescriptor*> methods;

  World() {
    signer = TestSigner();
    auto started = StartTestServer({store, clock, random, files, *signer}, {.no_auth = true});
    GRAFT_CHECK_OK(started.status());
    server = *std::move(started);
    caller = std::make_unique<GenericCaller>(ChannelTo(*server));
    const auto& pool = *google::protobuf::DescriptorPool::generated_pool();
    for (const char* name : kContractServices) {
      const auto* service = pool.FindServiceByName(name);
      GRAFT_CHECK(service != nullptr) << name;
      for (int i = 0; i < service->method_count(); ++i) {
        if (!service->method(i)->client_streaming()) methods.push_back(service->method(i));
      }
    }
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World* world = new World;
  if (size < 2) return 0;
  const size_t which = (size_t{data[0]} << 8 | data[1]) % world->methods.size();
  const std::string request(reinterpret_cast<const char*>(data) + 2, size - 2);
  const absl::Status status =
      world->caller->Call(*world->methods[which], request, "", std::chrono::milliseconds(200));
  // Bytes that are no message are gRPC's to refuse, which it does with INTERNAL.
  const bool parses = [&] {
    const auto* type = google::protobuf::MessageFactory::generated_factory()->GetPrototype(
        world->methods[which]->input_type());
    return std::unique_ptr<google::protobuf::Message>(type->New())->ParseFromString(request);
  }();
  GRAFT_CHECK(!parses || (!absl::IsInternal(status) && !absl::IsUnknown(status)))
      << world->methods[which]->full_name() << ": " << status.ToString();
  return 0;
}
