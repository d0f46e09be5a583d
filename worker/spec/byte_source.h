// Bytes that stand somewhere: in a local file, in memory, or behind a fileservice. All of
// worker/spec reads through these two interfaces, so that a model can be described without being
// downloaded.
//
//   GRAFT_ASSIGN_OR_RETURN(auto files, LocalModelFiles("/models/smollm2"));
//   GRAFT_ASSIGN_OR_RETURN(std::string config, ReadWhole(*files, "config.json", kMaxConfigBytes));
//
// Both are safe to call from any thread at once. A local file must not be cut while it is mapped:
// the page that is gone is SIGBUS (see base/file.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::spec {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual int64_t size() const = 0;
  // Fills out[0, count) from `offset`. OUT_OF_RANGE where that reaches beyond the end.
  virtual absl::Status ReadAt(int64_t offset, int64_t count, char* out) const = 0;
  // Those bytes are not wanted again: a mapped file's pages need not stay with this process.
  // Advice; ReadAt follows it by itself for what it copies in bulk.
  virtual void LetGo(int64_t offset, int64_t count) const {}
  // All bytes, where they are in memory or mapped, living as long as this; else empty.
  virtual absl::string_view mapped() const { return {}; }
};

// A local file, mapped read-only.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path);
// Bytes in memory.
std::unique_ptr<ByteSource> BytesInMemory(std::string bytes);

// The files of one model, by name relative to its folder ("config.json").
class ModelFiles {
 public:
  virtual ~ModelFiles() = default;
  // Sorted.
  virtual std::vector<std::string> Names() const = 0;
  // NOT_FOUND where there is no such file.
  virtual absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& name) const = 0;
};

// A folder (its own files, not those of folders in it), or a single .gguf file.
absl::StatusOr<std::unique_ptr<ModelFiles>> LocalModelFiles(const std::string& path);
// Files in memory, for tests and for small edits over others.
std::unique_ptr<ModelFiles> FilesInMemory(
    std::vector<std::pair<std::string, std::string>> name_and_bytes);

bool HasFile(const ModelFiles& files, absl::string_view name);
// The whole file. RESOURCE_EXHAUSTED where it is larger than `max_bytes`.
absl::StatusOr<std::string> ReadWhole(const ModelFiles& files, const std::string& name,
                                      int64_t max_bytes);

// No configuration, tokenizer or index file is larger; what is, is refused.
inline constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
inline constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;

}  // namespace graft::spec
