// Every request of the fileservice's services from bytes, streamed ones too, through the real door
// and the real handlers over a store with a version in it. The first byte says which method.
// Nothing a client sends may end the server, or be told as a fault of its own.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "fileservice/service/test_daemon.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "graft/v1/data.pb.h"
#include "graft/v1/fileset.pb.h"
#include "graft/v1/usage.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"

namespace {

using namespace graft;
using namespace graft::fileservice;
using google::protobuf::MethodDescriptor;

// Of this process, until its end.
const std::string& Folder() {
  static const std::string& folder = *new std::string([] {
    char made[] = "/tmp/graft-fuzz-XXXXXX";
    GRAFT_CHECK(mkdtemp(made) != nullptr);
    std::atexit([] { RemoveTree(Folder()).IgnoreError(); });
    return std::string(made);
  }());
  return folder;
}

struct World {
  RealClock clock;
  Daemon daemon{Folder(), clock};
  grpc::GenericStub stub{grpc::CreateChannel(absl::StrCat("127.0.0.1:", daemon.server->port()),
                                             grpc::InsecureChannelCredentials())};
  std::vector<const MethodDescriptor*> methods;

  World() {
    for (const auto* service :
         {v1::FileSet::descriptor()->file()->FindServiceByName("FileSetService"),
          v1::UploadSession::descriptor()->file()->FindServiceByName("DataService"),
          v1::StorageUsage::descriptor()->file()->FindServiceByName("StorageService")}) {
      GRAFT_CHECK(service != nullptr);
      for (int i = 0; i < service->method_count(); ++i) methods.push_back(service->method(i));
    }
  }

  // Sends the one message and reads until the call ends.
  grpc::StatusCode Call(const MethodDescriptor& method, const std::string& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
    context.AddMetadata("authorization", "Bearer worker;ws:admin,*:admin");
    grpc::CompletionQueue queue;
    const auto done = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      return queue.Next(&tag, &ok) && ok;
    };
    const auto call = stub.PrepareCall(
        &context, absl::StrCat("/", method.service()->full_name(), "/", method.name()), &queue);
    call->StartCall(nullptr);
    done();
    grpc::Slice slice(request);
    call->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), nullptr);
    done();
    grpc::ByteBuffer answer;
    do {
      call->Read(&answer, nullptr);
    } while (done());
    grpc::Status status;
    call->Finish(&status, nullptr);
    done();
    return status.error_code();
  }
};

bool Parses(const MethodDescriptor& method, const std::string& request) {
  const auto* type =
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.input_type());
  return std::unique_ptr<google::protobuf::Message>(type->New())->ParseFromString(request);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World& world = *new World;
  if (size < 1) return 0;
  const MethodDescriptor& method = *world.methods[data[0] % world.methods.size()];
  const std::string request(reinterpret_cast<const char*>(data) + 1, size - 1);
  const grpc::StatusCode code = world.Call(method, request);
  // Bytes that are no message are gRPC's to refuse, which it does with INTERNAL.
  const bool own_fault = code == grpc::StatusCode::INTERNAL || code == grpc::StatusCode::UNKNOWN;
  GRAFT_CHECK(!own_fault || !Parses(method, request)) << method.full_name();
  return 0;
}
