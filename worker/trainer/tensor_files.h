// Named tensors to and from safetensors files, streamed one at a time.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "worker/spec/safetensors.h"
#include "worker/trainer/blockwise.h"

namespace graft::trainer {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// folder/stem.safetensors (or shards and an index), written beside and renamed. Returns the names
// of the files.
absl::StatusOr<std::vector<std::string>> WriteTensors(const std::string& folder,
                                                      const std::string& stem,
                                                      const NamedTensors& tensors);

// Copies every tensor of `tensors` from path. INVALID_ARGUMENT where one is missing or has another
// shape, naming it.
absl::Status ReadTensors(const std::string& path, const NamedTensors& tensors);

// A rank's numbers of a tensor, which ranks write to one file together as fp32. Those in
// [begin, begin + count) stand at `whole_begin` of the whole tensor, row after row.
struct TensorPart {
  struct Run {
    int64_t begin;
    int64_t whole_begin;
    int64_t count;
    bool writes = true;  // of several ranks that hold the same, one writes
  };
  std::string name;
  std::vector<int64_t> whole;
  CodedNumbers numbers;
  std::vector<Run> runs;

  bool writes() const;  // any of its runs
};
using TensorParts = std::vector<TensorPart>;

// All of a tensor; every rank that calls it with `writes` writes it.
TensorPart WholePart(std::string name, const at::Tensor& value, bool writes);

// A safetensors file that holds its tensors at their final size, open for their numbers.
class PartsFile {
 public:
  static absl::StatusOr<std::unique_ptr<PartsFile>> Open(const std::string& path);
  // INVALID_ARGUMENT where the file lacks the part's tensor or has it in another shape, and where a
  // run leaves it.
  absl::Status Write(const TensorPart& part);
  absl::Status Sync();

 private:
  PartsFile(std::string path, UniqueFd fd, spec::TensorIndex index)
      : path_(std::move(path)), fd_(std::move(fd)), index_(std::move(index)) {}

  const std::string path_;
  const UniqueFd fd_;
  const spec::TensorIndex index_;
};
// Fills every part from path; INVALID_ARGUMENT as of PartsFile::Write.
absl::Status ReadParts(const std::string& path, const TensorParts& parts);

// Whether ReadParts finds every part there, by names and shapes.
absl::Status CheckParts(const std::string& path, const TensorParts& parts);

// The names and shapes in the file.
absl::StatusOr<spec::TensorIndex> ListTensors(const std::string& path);

}  // namespace graft::trainer
