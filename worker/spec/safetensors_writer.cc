#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/spec/safetensors.h"

namespace graft::spec {
namespace {

constexpr char kBeside[] = ".part";
// Data begins at a multiple of it, so that a mapped tensor can be fed to a GEMM as it stands.
constexpr size_t kHeaderAlignment = 64;

struct Shard {
  std::string name;
  std::vector<int> tensors;  // indices, in the order they are written
  UniqueFd fd;
};

struct Place {
  int shard = 0;
  int64_t offset = 0;  // in the file
};

absl::Status PWriteAll(int fd, absl::string_view bytes, int64_t offset, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("cannot write ", name));
    }
    bytes.remove_prefix(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

class Writer final : public SafetensorsWriter {
 public:
  Writer(SafetensorsWriterOptions options, std::vector<TensorToWrite> tensors)
      : options_(std::move(options)), tensors_(std::move(tensors)) {}

  ~Writer() override {
    if (finished_) return;
    for (const Shard& shard : shards_) {
      if (shard.fd.valid()) unlink(Path(shard.name + kBeside).c_str());
    }
  }

  absl::Status Start() {
    absl::btree_set<std::string> names;
    for (const TensorToWrite& t : tensors_) {
      if (!names.insert(t.name).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", t.name, " is to be written twice"));
      }
      if (IsQuantized(t.dtype)) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", t.name, ": safetensors has no type ", DTypeName(t.dtype)));
      }
    }
    GRAFT_RETURN_IF_ERROR(MakeDirectories(options_.folder));
    Distribute();
    places_.resize(tensors_.size());
    for (size_t s = 0; s < shards_.size(); ++s) GRAFT_RETURN_IF_ERROR(Open(static_cast<int>(s)));
    return absl::OkStatus();
  }

  absl::Status Append(absl::string_view bytes) override {
    appended_ = true;
    while (!bytes.empty()) {
      SkipFull();
      if (current_ == tensors_.size()) {
        return absl::FailedPreconditionError(
            absl::StrCat(bytes.size(), " bytes were appended behind the last tensor's end"));
      }
      const int64_t room = tensors_[current_].bytes() - written_;
      const size_t n = std::min(bytes.size(), static_cast<size_t>(room));
      GRAFT_RETURN_IF_ERROR(WriteAt(static_cast<int>(current_), written_, bytes.substr(0, n)));
      written_ += static_cast<int64_t>(n);
      bytes.remove_prefix(n);
    }
    return absl::OkStatus();
  }

  absl::Status WriteAt(int index, int64_t offset, absl::string_view bytes) override {
    if (index < 0 || index >= static_cast<int>(tensors_.size())) {
      return absl::InvalidArgumentError(absl::StrCat("there is no tensor ", index, " to write"));
    }
    const TensorToWrite& tensor = tensors_[static_cast<size_t>(index)];
    if (offset < 0 || static_cast<int64_t>(bytes.size()) > tensor.bytes() - offset) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " of ", tensor.bytes(),
                                                     " bytes has no room for ", bytes.size(),
                                                     " bytes at ", offset));
    }
    const Place& place = places_[static_cast<size_t>(index)];
    const Shard& shard = shards_[static_cast<size_t>(place.shard)];
    return PWriteAll(shard.fd.get(), bytes, place.offset + offset, Path(shard.name));
  }

  absl::StatusOr<std::vector<std::string>> Finish() override {
    SkipFull();
    if (appended_ && current_ < tensors_.size()) {
      return absl::FailedPreconditionError(absl::StrCat("tensor ", tensors_[current_].name, " has ",
                                                        written_, " of its ",
                                                        tensors_[current_].bytes(), " bytes"));
    }
    std::vector<std::string> names;
    for (const Shard& shard : shards_) {
      if (fsync(shard.fd.get()) != 0) {
        return ErrnoStatus(errno, absl::StrCat("cannot sync ", Path(shard.name)));
      }
    }
    for (Shard& shard : shards_) {
      if (rename(Path(shard.name + kBeside).c_str(), Path(shard.name).c_str()) != 0) {
        return ErrnoStatus(errno, absl::StrCat("cannot rename to ", Path(shard.name)));
      }
      shard.fd.reset();
      names.push_back(shard.name);
    }
    finished_ = true;
    GRAFT_RETURN_IF_ERROR(SyncDirectory(options_.folder));
    const std::string index = absl::StrCat(options_.stem, ".safetensors.index.json");
    if (shards_.size() > 1) {
      GRAFT_RETURN_IF_ERROR(WriteFileAtomically(Path(index), IndexText()));
      names.push_back(index);
    }
    // What an earlier export left under the other layout's name would be read instead of this one.
    const std::string stale = shards_.size() > 1 ? options_.stem + ".safetensors" : index;
    if (unlink(Path(stale).c_str()) != 0 && errno != ENOENT) {
      return ErrnoStatus(errno, absl::StrCat("cannot remove the older ", Path(stale)));
    }
    return names;
  }

 private:
  std::string Path(const std::string& name) const { return JoinPath(options_.folder, name); }

  void SkipFull() {
    while (current_ < tensors_.size() && written_ == tensors_[current_].bytes()) {
      ++current_;
      written_ = 0;
    }
  }

  // Tensors in their order; a shard is closed when the next one would exceed it.
  void Distribute() {
    int64_t bytes = 0;
    for (size_t i = 0; i < tensors_.size(); ++i) {
      const int64_t size = tensors_[i].bytes();
      if (shards_.empty() || (bytes + size > options_.max_shard_bytes && bytes > 0)) {
        shards_.emplace_back();
        bytes = 0;
      }
      shards_.back().tensors.push_back(static_cast<int>(i));
      bytes += size;
    }
    if (shards_.empty()) shards_.emplace_back();
    for (size_t s = 0; s < shards_.size(); ++s) {
      shards_[s].name =
          shards_.size() == 1
              ? absl::StrCat(options_.stem, ".safetensors")
              : absl::StrFormat("%s-%05d-of-%05d.safetensors", options_.stem,
                                static_cast<int>(s) + 1, static_cast<int>(shards_.size()));
    }
  }

  // Writes the header and gives the file its final size, so that a full disk shows at once.
  absl::Status Open(int s) {
    Shard& shard = shards_[static_cast<size_t>(s)];
    int64_t data_bytes = 0;
    const std::string header = HeaderOf(shard, &data_bytes);
    const std::string path = Path(shard.name + kBeside);
    shard.fd.reset(open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!shard.fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot create ", path));
    const int64_t size = static_cast<int64_t>(header.size()) + data_bytes;
    if (const int error = posix_fallocate(shard.fd.get(), 0, size); error != 0) {
      return ErrnoStatus(error, absl::StrCat("cannot reserve ", size, " bytes for ", path));
    }
    int64_t at = static_cast<int64_t>(header.size());
    for (int i : shard.tensors) {
      places_[static_cast<size_t>(i)] = {s, at};
      at += tensors_[static_cast<size_t>(i)].bytes();
    }
    return PWriteAll(shard.fd.get(), header, 0, path);
  }

  std::string HeaderOf(const Shard& shard, int64_t* data_bytes) const {
    Json::Object object;
    if (!options_.metadata.empty()) {
      Json metadata = Json::MakeObject();
      for (const auto& [key, value] : options_.metadata) metadata.Set(key, value);
      object.emplace_back("__metadata__", std::move(metadata));
    }
    *data_bytes = 0;
    for (int i : shard.tensors) {
      const TensorToWrite& t = tensors_[static_cast<size_t>(i)];
      Json shape = Json::MakeArray();
      for (int64_t d : t.shape) shape.Append(d);
      Json offsets = Json::MakeArray();
      offsets.Append(*data_bytes);
      *data_bytes += t.bytes();
      offsets.Append(*data_bytes);
      Json info = Json::MakeObject();
      info.Set("dtype", DTypeName(t.dtype)).Set("shape", std::move(shape));
      info.Set("data_offsets", std::move(offsets));
      object.emplace_back(t.name, std::move(info));
    }
    std::string json = Json(std::move(object)).Dump();
    while ((json.size() + 8) % kHeaderAlignment != 0) json += ' ';
    const uint64_t length = json.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + json;
  }

  std::string IndexText() const {
    absl::btree_map<std::string, std::string> file_of;
    int64_t total = 0;
    for (const Shard& shard : shards_) {
      for (int i : shard.tensors) {
        file_of[tensors_[static_cast<size_t>(i)].name] = shard.name;
        total += tensors_[static_cast<size_t>(i)].bytes();
      }
    }
    Json::Object map;
    for (const auto& [tensor, file] : file_of) map.emplace_back(tensor, Json(file));
    Json metadata = Json::MakeObject();
    metadata.Set("total_size", total);
    Json index = Json::MakeObject();
    index.Set("metadata", std::move(metadata)).Set("weight_map", Json(std::move(map)));
    return index.Dump(2) + "\n";
  }

  const SafetensorsWriterOptions options_;
  const std::vector<TensorToWrite> tensors_;
  std::vector<Shard> shards_;
  std::vector<Place> places_;  // by tensor
  size_t current_ = 0;         // Append's tensor and how much of it is written
  int64_t written_ = 0;
  bool appended_ = false;
  bool finished_ = false;
};

}  // namespace

int64_t TensorToWrite::bytes() const {
  int64_t elements = 1;
  for (int64_t d : shape) elements *= d;
  return BytesOf(dtype, elements);
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    SafetensorsWriterOptions options, std::vector<TensorToWrite> tensors) {
  auto writer = std::make_unique<Writer>(std::move(options), std::move(tensors));
  GRAFT_RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace graft::spec
