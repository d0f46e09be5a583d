// The safetensors format: headers of one file or of a set of shards, and a writer.
//
// A file is an 8-byte little-endian length, that many bytes of JSON {name: {dtype, shape,
// data_offsets}}, then the data. Everything in the header is checked against the file's size before
// it is believed; a message names the file and the tensor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/parameter.h"

namespace graft::spec {

// As the reference implementation limits it.
inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// `file` becomes TensorInfo::file. `metadata`, where given, gets the "__metadata__" pairs.
absl::StatusOr<TensorIndex> ReadSafetensorsHeader(
    const ByteSource& source, const std::string& file,
    std::vector<std::pair<std::string, std::string>>* metadata = nullptr);

// All tensors of a model's folder: those that model.safetensors.index.json lists, else of
// model.safetensors, else of the only *.safetensors file there is. A tensor that the index names
// and the shard lacks is an error. NOT_FOUND where there is no such file; pickled weights
// (pytorch_model.bin) are named in the message and never read.
absl::StatusOr<TensorIndex> ReadSafetensorsFolder(const ModelFiles& files);

struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t bytes() const;
};

struct SafetensorsWriterOptions {
  std::string folder;
  // "model" gives model.safetensors, or model-00001-of-00003.safetensors and
  // model.safetensors.index.json where one shard is not enough.
  std::string stem = "model";
  int64_t max_shard_bytes = int64_t{5} << 30;  // one tensor may still exceed it, alone in a shard
  std::vector<std::pair<std::string, std::string>> metadata = {{"format", "pt"}};
};

// Writes tensors into shards laid out before the first byte. Life cycle: Create with every tensor,
// in the order they will be written; Append the bytes of each, in pieces of any size; Finish, which
// syncs all files, renames them into place, the index last. Until Finish no file of the final name
// exists or changes; an abandoned writer removes what it wrote.
class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      SafetensorsWriterOptions options, std::vector<TensorToWrite> tensors);
  virtual ~SafetensorsWriter() = default;
  // The next bytes of the current tensor. FAILED_PRECONDITION beyond the last tensor's end.
  virtual absl::Status Append(absl::string_view bytes) = 0;
  // Bytes at `offset` of the tensor `index`, in any order and from any thread, instead of Append.
  // Finish does not know whether all were written then; the caller does.
  virtual absl::Status WriteAt(int index, int64_t offset, absl::string_view bytes) = 0;
  // FAILED_PRECONDITION where Append was used and bytes are missing, naming the tensor. Returns the
  // names of the files, the index included.
  virtual absl::StatusOr<std::vector<std::string>> Finish() = 0;
};

}  // namespace graft::spec
