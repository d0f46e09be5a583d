#include "worker/spec/byte_source.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/container/btree_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::spec {
namespace {

absl::Status CopyOut(absl::string_view bytes, int64_t offset, int64_t count, char* out) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (offset < 0 || count < 0 || offset > size || count > size - offset) {
    return absl::OutOfRangeError(
        absl::StrCat("bytes ", offset, " to ", offset + count, " of a file of ", size, " bytes"));
  }
  if (count > 0) std::memcpy(out, bytes.data() + offset, static_cast<size_t>(count));
  return absl::OkStatus();
}

class MappedSource final : public ByteSource {
 public:
  explicit MappedSource(MappedFile file) : file_(std::move(file)) {}
  int64_t size() const override { return static_cast<int64_t>(file_.bytes().size()); }
  absl::Status ReadAt(int64_t offset, int64_t count, char* out) const override {
    absl::Status status = CopyOut(file_.bytes(), offset, count, out);
    // What was copied in bulk is not wanted twice: a model would else stand in memory twice over.
    if (status.ok() && count >= kBulkBytes) LetGo(offset, count);
    return status;
  }
  void LetGo(int64_t offset, int64_t count) const override {
    file_.LetGo(static_cast<size_t>(offset), static_cast<size_t>(count));
  }
  absl::string_view mapped() const override { return file_.bytes(); }

 private:
  static constexpr int64_t kBulkBytes = 128 << 10;
  const MappedFile file_;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::string bytes) : bytes_(std::move(bytes)) {}
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  absl::Status ReadAt(int64_t offset, int64_t count, char* out) const override {
    return CopyOut(bytes_, offset, count, out);
  }
  absl::string_view mapped() const override { return bytes_; }

 private:
  const std::string bytes_;
};

absl::Status NoSuchFile(const std::string& name) {
  return absl::NotFoundError(absl::StrCat("the model has no file ", name));
}

class LocalFiles final : public ModelFiles {
 public:
  LocalFiles(std::string folder, std::vector<std::string> names)
      : folder_(std::move(folder)), names_(std::move(names)) {}
  std::vector<std::string> Names() const override { return names_; }
  absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& name) const override {
    if (!std::binary_search(names_.begin(), names_.end(), name)) return NoSuchFile(name);
    return OpenFile(JoinPath(folder_, name));
  }

 private:
  const std::string folder_;
  const std::vector<std::string> names_;
};

class MemoryFiles final : public ModelFiles {
 public:
  explicit MemoryFiles(std::vector<std::pair<std::string, std::string>> files)
      : files_(std::make_move_iterator(files.begin()), std::make_move_iterator(files.end())) {}
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : files_) names.push_back(name);
    return names;
  }
  absl::StatusOr<std::unique_ptr<ByteSource>> Open(const std::string& name) const override {
    const auto it = files_.find(name);
    if (it == files_.end()) return NoSuchFile(name);
    return BytesInMemory(it->second);
  }

 private:
  const absl::btree_map<std::string, std::string> files_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ByteSource>> OpenFile(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  return std::make_unique<MappedSource>(std::move(file));
}

std::unique_ptr<ByteSource> BytesInMemory(std::string bytes) {
  return std::make_unique<MemorySource>(std::move(bytes));
}

absl::StatusOr<std::unique_ptr<ModelFiles>> LocalModelFiles(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) {
    return absl::NotFoundError(absl::StrCat("there is no model at ", path));
  }
  if (!std::filesystem::is_directory(status)) {
    if (!absl::EndsWith(path, ".gguf")) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is neither a folder with a model nor a .gguf file"));
    }
    const std::filesystem::path file(path);
    const std::string folder = file.has_parent_path() ? file.parent_path().string() : ".";
    return std::make_unique<LocalFiles>(folder, std::vector<std::string>{file.filename().string()});
  }
  GRAFT_ASSIGN_OR_RETURN(std::vector<std::string> names, ListDirectory(path));
  std::vector<std::string> files;
  for (std::string& name : names) {
    if (std::filesystem::is_regular_file(JoinPath(path, name), error)) {
      files.push_back(std::move(name));
    }
  }
  return std::make_unique<LocalFiles>(path, std::move(files));
}

std::unique_ptr<ModelFiles> FilesInMemory(
    std::vector<std::pair<std::string, std::string>> name_and_bytes) {
  return std::make_unique<MemoryFiles>(std::move(name_and_bytes));
}

bool HasFile(const ModelFiles& files, absl::string_view name) {
  const std::vector<std::string> names = files.Names();
  return std::binary_search(names.begin(), names.end(), name);
}

absl::StatusOr<std::string> ReadWhole(const ModelFiles& files, const std::string& name,
                                      int64_t max_bytes) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, files.Open(name));
  if (source->size() > max_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(name, " has ", source->size(),
                                                     " bytes, more than the ", max_bytes,
                                                     " that such a file may have"));
  }
  std::string bytes(static_cast<size_t>(source->size()), '\0');
  GRAFT_RETURN_IF_ERROR(source->ReadAt(0, source->size(), bytes.data()));
  return bytes;
}

}  // namespace graft::spec
