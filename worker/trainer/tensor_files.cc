#include "worker/trainer/tensor_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/spec/byte_source.h"

namespace graft::trainer {
namespace {

spec::DType FileType(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return spec::DType::kF32;
    case at::kBFloat16:
      return spec::DType::kBF16;
    case at::kHalf:
      return spec::DType::kF16;
    case at::kByte:
      return spec::DType::kU8;
    case at::kLong:
      return spec::DType::kI64;
    default:
      GRAFT_CHECK(false) << "a tensor of type " << at::toString(type) << " is not written";
  }
  return spec::DType::kF32;
}

constexpr int64_t kFloatBytes = static_cast<int64_t>(sizeof(float));

// Where the part's tensor stands in the file.
absl::StatusOr<spec::TensorInfo> Expect(const spec::TensorIndex& index, const std::string& path,
                                        const TensorPart& part) {
  const auto found = index.find(part.name);
  if (found == index.end()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " lacks tensor ", part.name));
  }
  const spec::TensorInfo& info = found->second;
  if (info.shape != part.whole || info.dtype != spec::DType::kF32) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor ", part.name, " is ", spec::DTypeName(info.dtype), " [",
        absl::StrJoin(info.shape, ", "), "], wanted F32 [", absl::StrJoin(part.whole, ", "), "]"));
  }
  return info;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> WriteTensors(const std::string& folder,
                                                      const std::string& stem,
                                                      const NamedTensors& tensors) {
  std::vector<spec::TensorToWrite> layout;
  for (const auto& [name, tensor] : tensors) {
    layout.push_back({name, FileType(tensor.scalar_type()), tensor.sizes().vec()});
  }
  spec::SafetensorsWriterOptions options;
  options.folder = folder;
  options.stem = stem;
  options.max_shard_bytes = int64_t{1} << 60;
  GRAFT_ASSIGN_OR_RETURN(auto writer, spec::SafetensorsWriter::Create(options, layout));
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor whole = tensor.contiguous().cpu();
    GRAFT_RETURN_IF_ERROR(writer->Append(absl::string_view(
        static_cast<const char*>(whole.const_data_ptr()), static_cast<size_t>(whole.nbytes()))));
  }
  return writer->Finish();
}

bool TensorPart::writes() const {
  return std::any_of(runs.begin(), runs.end(), [](const Run& run) { return run.writes; });
}

TensorPart WholePart(std::string name, const at::Tensor& value, bool writes) {
  return {std::move(name), value.sizes().vec(), {value}, {{0, 0, value.numel(), writes}}};
}

absl::StatusOr<std::unique_ptr<PartsFile>> PartsFile::Open(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(spec::TensorIndex index, ListTensors(path));
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, path);
  return absl::WrapUnique(new PartsFile(path, std::move(fd), std::move(index)));
}

absl::Status PartsFile::Write(const TensorPart& part) {
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorInfo info, Expect(index_, path_, part));
  const at::Tensor value = part.numbers.Wide();
  const char* bytes = static_cast<const char*>(value.const_data_ptr());
  for (const TensorPart::Run& run : part.runs) {
    if (!run.writes) continue;
    if (run.begin < 0 || run.whole_begin < 0 || run.count < 0 ||
        run.begin + run.count > value.numel() ||
        (run.whole_begin + run.count) * kFloatBytes > info.bytes) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", run.count, " numbers at ",
                                                     run.whole_begin, " of tensor ", part.name,
                                                     ", which has ", info.elements()));
    }
    int64_t done = 0;
    while (done < run.count * kFloatBytes) {
      const ssize_t wrote = pwrite(fd_.get(), bytes + run.begin * kFloatBytes + done,
                                   static_cast<size_t>(run.count * kFloatBytes - done),
                                   info.offset + run.whole_begin * kFloatBytes + done);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return ErrnoStatus(errno, path_);
      done += wrote;
    }
  }
  return absl::OkStatus();
}

absl::Status PartsFile::Sync() {
  return fsync(fd_.get()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, path_);
}

absl::Status ReadParts(const std::string& path, const TensorParts& parts) {
  GRAFT_ASSIGN_OR_RETURN(const auto source, spec::OpenFile(path));
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex index, spec::ReadSafetensorsHeader(*source, path));
  for (const TensorPart& part : parts) {
    GRAFT_ASSIGN_OR_RETURN(const spec::TensorInfo info, Expect(index, path, part));
    TensorPart into = part;
    at::Tensor value = into.numbers.Wide();
    char* bytes = static_cast<char*>(value.mutable_data_ptr());
    for (const TensorPart::Run& run : part.runs) {
      GRAFT_RETURN_IF_ERROR(source->ReadAt(info.offset + run.whole_begin * kFloatBytes,
                                           run.count * kFloatBytes,
                                           bytes + run.begin * kFloatBytes));
    }
    into.numbers.Narrow(value);
  }
  return absl::OkStatus();
}

absl::Status CheckParts(const std::string& path, const TensorParts& parts) {
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex index, ListTensors(path));
  for (const TensorPart& part : parts) {
    GRAFT_RETURN_IF_ERROR(Expect(index, path, part).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<spec::TensorIndex> ListTensors(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const auto source, spec::OpenFile(path));
  return spec::ReadSafetensorsHeader(*source, path);
}

absl::Status ReadTensors(const std::string& path, const NamedTensors& tensors) {
  GRAFT_ASSIGN_OR_RETURN(const auto source, spec::OpenFile(path));
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex index, spec::ReadSafetensorsHeader(*source, path));
  for (const auto& [name, tensor] : tensors) {
    const auto found = index.find(name);
    if (found == index.end()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " lacks tensor ", name));
    }
    const spec::TensorInfo& info = found->second;
    if (at::IntArrayRef(info.shape) != tensor.sizes() || !spec::IsFloating(info.dtype)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", name, " is ",
                                                     spec::DTypeName(info.dtype), " [",
                                                     absl::StrJoin(info.shape, ", "), "], wanted [",
                                                     absl::StrJoin(tensor.sizes(), ", "), "]"));
    }
    at::Tensor wide = at::empty(info.shape, at::kFloat);
    std::string bytes(static_cast<size_t>(info.bytes), '\0');
    GRAFT_RETURN_IF_ERROR(source->ReadAt(info.offset, info.bytes, bytes.data()));
    spec::ToFloat(info.dtype, bytes.data(), info.elements(), wide.mutable_data_ptr<float>());
    at::Tensor(tensor).copy_(wide);
  }
  return absl::OkStatus();
}

}  // namespace graft::trainer
