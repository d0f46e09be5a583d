// The GGUF format (versions 2 and 3, little-endian): metadata and tensor infos. The data is read
// through TensorInfo like any other (dtype.h widens its blocks).
//
// Metadata is kept as Json values, arrays included; a caller fills a tokenizer from
//   gguf.Find("tokenizer.ggml.tokens")->as_array(), "tokenizer.ggml.merges", ".token_type",
//   ".scores", ".model", ".pre", ".bos_token_id", ".add_bos_token", "tokenizer.chat_template".
// Strings that are no UTF-8 are kept as they are.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/parameter.h"

namespace graft::spec {

// Limits on what a header may claim; no model in use comes near.
inline constexpr int64_t kMaxGgufTensors = 1 << 20;
inline constexpr int64_t kMaxGgufKeys = 1 << 16;
inline constexpr int64_t kMaxGgufStringBytes = int64_t{64} << 20;
inline constexpr int64_t kMaxGgufArrayElements = 1 << 22;  // of all arrays together
inline constexpr int64_t kMaxGgufHeaderBytes = int64_t{1} << 30;

struct GgufHeader {
  absl::btree_map<std::string, Json> metadata;
  TensorIndex tensors;

  // nullptr where there is no such key.
  const Json* Find(absl::string_view key) const;
};

// `file` becomes TensorInfo::file. Every offset and size is checked against the file's; a message
// names the file and the tensor or key. UNIMPLEMENTED for a tensor type that is not read here.
absl::StatusOr<GgufHeader> ReadGguf(const ByteSource& source, const std::string& file);

// The one .gguf file of the folder, or empty.
std::string FindGguf(const ModelFiles& files);

}  // namespace graft::spec
