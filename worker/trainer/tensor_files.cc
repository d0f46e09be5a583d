#include "worker/trainer/tensor_files.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
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
    at::Tensor into = tensor;
    into.copy_(wide);
  }
  return absl::OkStatus();
}

}  // namespace graft::trainer
