// Messages that carry bulk bytes, read and written without protobuf: a few small fields by hand,
// and the payload as it is. On the wire they are what data.proto says.
//
// Used by both ends (service/ and transfer/).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft::fileservice::wire {

// The number of `data` in every stream message.
inline constexpr uint32_t kDataField = 15;

class Writer {
 public:
  // Proto3: a zero is not written.
  Writer& Varint(uint32_t field, uint64_t value);
  Writer& Bytes(uint32_t field, absl::string_view value);
  Writer& PackedVarints(uint32_t field, const std::vector<uint32_t>& values);
  // Tag and length of a field whose bytes follow the result of Take().
  Writer& BytesHead(uint32_t field, size_t size);
  std::string Take() { return std::move(out_); }

 private:
  void Raw(uint64_t value);
  std::string out_;
};

struct Field {
  uint32_t number = 0;
  uint64_t varint = 0;      // of wire type 0
  absl::string_view bytes;  // of wire type 2, inside of the message
};
// Calls `visit` for each field. INVALID_ARGUMENT for bytes that are no message. Unknown wire types
// are passed over.
absl::Status Parse(absl::string_view message, const std::function<void(const Field&)>& visit);
// A packed field, or one value of an unpacked one.
absl::Status ParseVarints(const Field& field, std::vector<uint32_t>& out);

// A message that arrived in pieces of memory, its bulk bytes left where they are.
struct SplitMessage {
  std::string rest;                     // every field but `data`, for Parse
  std::vector<absl::string_view> data;  // the bytes of `data`, inside of the parts
  size_t data_bytes = 0;
};
// INVALID_ARGUMENT for what is no message.
absl::StatusOr<SplitMessage> Split(absl::Span<const absl::string_view> parts);

// Hands out the bytes of `data` in runs. What lies in one part is not copied.
class DataCursor {
 public:
  explicit DataCursor(const SplitMessage& message) : data_(message.data) {}
  // The next `size` bytes, which must be there; `scratch` holds them where they span parts.
  absl::string_view Take(size_t size, std::string& scratch);

 private:
  const std::vector<absl::string_view>& data_;
  size_t part_ = 0;
  size_t at_ = 0;
};

}  // namespace graft::fileservice::wire
