// Reads what the chunker needs of a safetensors header. The header comes from a stranger: anything
// doubtful gives up, and the file is then cut by its content.
#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "fileservice/cas/chunker.h"

namespace graft::fileservice {
namespace {

bool ReadExtent(const Json& entry, int64_t data_begin, int64_t data_bytes, TensorExtent& out) {
  if (!entry.is_object()) return false;
  const Json* offsets = entry.Find("data_offsets");
  const Json* shape = entry.Find("shape");
  if (offsets == nullptr || !offsets->is_array() || offsets->as_array().size() != 2) return false;
  if (shape == nullptr || !shape->is_array()) return false;
  const Json& begin = offsets->as_array()[0];
  const Json& end = offsets->as_array()[1];
  if (!begin.is_int() || !end.is_int()) return false;
  if (begin.as_int() < 0 || end.as_int() < begin.as_int() || end.as_int() > data_bytes) {
    return false;
  }
  out.dtype = entry.GetString("dtype");
  out.shape = shape->Dump();
  out.begin = data_begin + begin.as_int();
  out.end = data_begin + end.as_int();
  return true;
}

}  // namespace

uint64_t SafetensorsHeadBytes(absl::string_view first8, int64_t file_bytes) {
  if (first8.size() < kSafetensorsPrefixBytes) return 0;
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = (length << 8) | static_cast<uint8_t>(first8[i]);
  if (length < 2 || length > kMaxSafetensorsHeaderBytes) return 0;
  const uint64_t head_bytes = length + kSafetensorsPrefixBytes;
  return head_bytes <= static_cast<uint64_t>(file_bytes) ? head_bytes : 0;
}

std::vector<TensorExtent> ParseSafetensorsHead(absl::string_view head, int64_t file_bytes) {
  const uint64_t head_bytes = SafetensorsHeadBytes(head, file_bytes);
  if (head_bytes == 0 || head.size() < head_bytes) return {};
  const absl::string_view text =
      head.substr(kSafetensorsPrefixBytes, head_bytes - kSafetensorsPrefixBytes);
  Json::ParseOptions options;
  options.max_depth = 8;
  const absl::StatusOr<Json> json = Json::Parse(text, options);
  if (!json.ok() || !json->is_object()) return {};

  const int64_t data_begin = static_cast<int64_t>(head_bytes);
  std::vector<TensorExtent> tensors;
  for (const auto& [name, entry] : json->as_object()) {
    if (name == "__metadata__") continue;
    TensorExtent tensor;
    if (!ReadExtent(entry, data_begin, file_bytes - data_begin, tensor)) return {};
    tensor.name = name;
    tensors.push_back(std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorExtent& a, const TensorExtent& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t at = data_begin;
  for (const TensorExtent& tensor : tensors) {
    if (tensor.begin != at) return {};
    at = tensor.end;
  }
  if (at != file_bytes) return {};
  return tensors;
}

}  // namespace graft::fileservice
