#include "worker/spec/safetensors.h"

#include <algorithm>
#include <cstring>

#include "absl/container/btree_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace graft::spec {
namespace {

constexpr int kMaxDimensions = 16;

absl::Status Bad(absl::string_view file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

absl::Status BadTensor(absl::string_view file, absl::string_view tensor, absl::string_view what) {
  return Bad(file, absl::StrCat("tensor ", tensor, ": ", what));
}

// The product of the shape, or an error where it is negative or overflows.
absl::StatusOr<std::vector<int64_t>> ReadShape(const Json* json, int64_t* elements) {
  if (json == nullptr || !json->is_array()) {
    return absl::InvalidArgumentError("its shape is no array");
  }
  if (json->as_array().size() > kMaxDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has more than ", kMaxDimensions, " dimensions"));
  }
  std::vector<int64_t> shape;
  *elements = 1;
  for (const Json& d : json->as_array()) {
    if (!d.is_int() || d.as_int() < 0) {
      return absl::InvalidArgumentError("a dimension of its shape is no natural number");
    }
    if (__builtin_mul_overflow(*elements, d.as_int(), elements)) {
      return absl::InvalidArgumentError("its shape overflows");
    }
    shape.push_back(d.as_int());
  }
  return shape;
}

absl::StatusOr<TensorInfo> ReadTensor(const Json& json, const std::string& file, int64_t data_begin,
                                      int64_t data_bytes) {
  TensorInfo info;
  info.file = file;
  GRAFT_ASSIGN_OR_RETURN(info.dtype, DTypeFromSafetensors(json.GetString("dtype")));
  int64_t elements = 0;
  GRAFT_ASSIGN_OR_RETURN(info.shape, ReadShape(json.Find("shape"), &elements));
  const Json* offsets = json.Find("data_offsets");
  if (offsets == nullptr || !offsets->is_array() || offsets->as_array().size() != 2 ||
      !offsets->as_array()[0].is_int() || !offsets->as_array()[1].is_int()) {
    return absl::InvalidArgumentError("its data_offsets are not two integers");
  }
  const int64_t begin = offsets->as_array()[0].as_int();
  const int64_t end = offsets->as_array()[1].as_int();
  if (begin < 0 || end < begin) {
    return absl::InvalidArgumentError(
        absl::StrCat("its data_offsets are [", begin, ", ", end, "]"));
  }
  if (end > data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("its data ends at byte ", end, " of ", data_bytes, "; the file is cut off"));
  }
  int64_t expected = 0;
  if (__builtin_mul_overflow(elements, BlockBytes(info.dtype), &expected) ||
      expected != end - begin) {
    return absl::InvalidArgumentError(
        absl::StrCat("its shape [", absl::StrJoin(info.shape, ", "), "] of ", DTypeName(info.dtype),
                     " does not have the ", end - begin, " bytes of its data_offsets"));
  }
  info.offset = data_begin + begin;
  info.bytes = end - begin;
  return info;
}

absl::Status ReadMetadata(const std::string& file, const Json& json,
                          std::vector<std::pair<std::string, std::string>>* metadata) {
  if (!json.is_object()) return Bad(file, "__metadata__ is no object");
  for (const auto& [key, value] : json.as_object()) {
    if (!value.is_string()) return Bad(file, absl::StrCat("__metadata__.", key, " is no string"));
    if (metadata != nullptr) metadata->emplace_back(key, value.as_string());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadHeaderText(const ByteSource& source, const std::string& file) {
  if (source.size() < 8) {
    return Bad(file, absl::StrCat("it has ", source.size(), " bytes; the file is cut off"));
  }
  uint64_t length = 0;
  GRAFT_RETURN_IF_ERROR(source.ReadAt(0, 8, reinterpret_cast<char*>(&length)));
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return Bad(file, absl::StrCat("its header claims ", length, " bytes, more than ",
                                  kMaxSafetensorsHeaderBytes, "; this is no safetensors file"));
  }
  if (static_cast<int64_t>(length) > source.size() - 8) {
    return Bad(file, absl::StrCat("its header of ", length,
                                  " bytes ends beyond the file; the file is cut off"));
  }
  std::string text(static_cast<size_t>(length), '\0');
  GRAFT_RETURN_IF_ERROR(source.ReadAt(8, static_cast<int64_t>(length), text.data()));
  return text;
}

// Two tensors must not share bytes: a file made to look larger than it is.
absl::Status CheckNoOverlap(const std::string& file, const TensorIndex& tensors) {
  std::vector<std::pair<const std::string*, const TensorInfo*>> by_offset;
  for (const auto& [name, info] : tensors) {
    if (info.bytes > 0) by_offset.emplace_back(&name, &info);
  }
  std::sort(by_offset.begin(), by_offset.end(),
            [](const auto& a, const auto& b) { return a.second->offset < b.second->offset; });
  for (size_t i = 1; i < by_offset.size(); ++i) {
    const TensorInfo& before = *by_offset[i - 1].second;
    if (before.offset + before.bytes > by_offset[i].second->offset) {
      return BadTensor(file, *by_offset[i].first,
                       absl::StrCat("its bytes overlap those of ", *by_offset[i - 1].first));
    }
  }
  return absl::OkStatus();
}

absl::Status AddShard(const ModelFiles& files, const std::string& shard, TensorIndex* all) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, files.Open(shard));
  GRAFT_ASSIGN_OR_RETURN(TensorIndex tensors, ReadSafetensorsHeader(*source, shard));
  for (auto& [name, info] : tensors) {
    const auto [it, inserted] = all->try_emplace(name, std::move(info));
    if (!inserted) {
      return BadTensor(shard, name, absl::StrCat("it is in ", it->second.file, " too"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TensorIndex> ReadIndexed(const ModelFiles& files, const std::string& index_name) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadWhole(files, index_name, kMaxIndexBytes));
  absl::StatusOr<Json> index = Json::Parse(text);
  if (!index.ok()) return Bad(index_name, index.status().message());
  const Json* map = index->Find("weight_map");
  if (map == nullptr || !map->is_object()) return Bad(index_name, "it has no object weight_map");
  absl::btree_set<std::string> shards;
  for (const auto& [tensor, shard] : map->as_object()) {
    if (!shard.is_string()) return BadTensor(index_name, tensor, "its file is no string");
    shards.insert(shard.as_string());
  }
  TensorIndex all;
  for (const std::string& shard : shards) {
    if (!HasFile(files, shard)) {
      return absl::NotFoundError(absl::StrCat(index_name, " names the file ", shard,
                                              ", which the model lacks; fetch it again"));
    }
    GRAFT_RETURN_IF_ERROR(AddShard(files, shard, &all));
  }
  for (const auto& [tensor, shard] : map->as_object()) {
    const auto it = all.find(tensor);
    if (it == all.end() || it->second.file != shard.as_string()) {
      return BadTensor(index_name, tensor, absl::StrCat("it is not in ", shard.as_string()));
    }
  }
  return all;
}

}  // namespace

absl::StatusOr<TensorIndex> ReadSafetensorsHeader(
    const ByteSource& source, const std::string& file,
    std::vector<std::pair<std::string, std::string>>* metadata) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadHeaderText(source, file));
  absl::StatusOr<Json> header = Json::Parse(text);
  if (!header.ok()) {
    return Bad(file, absl::StrCat("its header is no JSON: ", header.status().message()));
  }
  if (!header->is_object()) return Bad(file, "its header is no object");
  const int64_t data_begin = 8 + static_cast<int64_t>(text.size());
  TensorIndex tensors;
  for (const auto& [name, json] : header->as_object()) {
    if (name == "__metadata__") {
      GRAFT_RETURN_IF_ERROR(ReadMetadata(file, json, metadata));
      continue;
    }
    absl::StatusOr<TensorInfo> info =
        ReadTensor(json, file, data_begin, source.size() - data_begin);
    if (!info.ok()) return BadTensor(file, name, info.status().message());
    tensors.emplace(name, *std::move(info));
  }
  GRAFT_RETURN_IF_ERROR(CheckNoOverlap(file, tensors));
  return tensors;
}

absl::StatusOr<TensorIndex> ReadSafetensorsFolder(const ModelFiles& files) {
  constexpr char kIndex[] = "model.safetensors.index.json";
  if (HasFile(files, kIndex)) return ReadIndexed(files, kIndex);
  std::vector<std::string> candidates;
  std::string pickled;
  for (const std::string& name : files.Names()) {
    if (absl::EndsWith(name, ".safetensors") && name != "adapter_model.safetensors") {
      candidates.push_back(name);
    }
    if (absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".pt") ||
        absl::EndsWith(name, ".pth")) {
      pickled = name;
    }
  }
  if (HasFile(files, "model.safetensors")) candidates = {"model.safetensors"};
  if (candidates.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("the model has several safetensors files (",
                                                   absl::StrJoin(candidates, ", "), ") and no ",
                                                   kIndex, "; add the index"));
  }
  if (candidates.empty()) {
    return absl::NotFoundError(
        pickled.empty() ? "the model has no safetensors and no GGUF file"
                        : absl::StrCat("the model's weights are pickled (", pickled,
                                       "), which can run code and is never read; convert them to "
                                       "safetensors"));
  }
  TensorIndex all;
  GRAFT_RETURN_IF_ERROR(AddShard(files, candidates[0], &all));
  return all;
}

}  // namespace graft::spec
