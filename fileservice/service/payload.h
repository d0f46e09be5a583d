// Memory of a message that is given back to the budget when gRPC has sent it.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "base/check.h"
#include "fileservice/service/byte_budget.h"
#include "grpcpp/support/byte_buffer.h"

namespace graft::fileservice {

struct Payload {
  // The budget has been charged with `capacity`.
  Payload(ByteBudget& budget, size_t capacity)
      : budget(budget), capacity(capacity), data(static_cast<char*>(std::malloc(capacity))) {
    GRAFT_CHECK(data != nullptr);
  }
  ~Payload() {
    std::free(data);
    budget.Release(static_cast<int64_t>(capacity));
  }
  Payload(const Payload&) = delete;
  Payload& operator=(const Payload&) = delete;
  static void Destroy(void* payload) { delete static_cast<Payload*>(payload); }

  ByteBudget& budget;
  const size_t capacity;
  char* const data;
};

// `head` (fields, and tag and length of the last one), then the first `filled` bytes of `payload`.
inline grpc::ByteBuffer MessageOf(const std::string& head, std::unique_ptr<Payload> payload,
                                  size_t filled) {
  if (filled == 0) {
    const grpc::Slice slice(head);
    return grpc::ByteBuffer(&slice, 1);
  }
  Payload* raw = payload.release();
  const grpc::Slice slices[2] = {grpc::Slice(head),
                                 grpc::Slice(raw->data, filled, &Payload::Destroy, raw)};
  return grpc::ByteBuffer(slices, 2);
}

}  // namespace graft::fileservice
