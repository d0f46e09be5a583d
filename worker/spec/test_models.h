// Models in memory whose numbers tell where they stood. For tests alone.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "base/json.h"
#include "base/random.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/load.h"

namespace graft::spec {

struct RawTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

inline std::string SafetensorsBytes(const std::vector<RawTensor>& tensors) {
  Json::Object header;
  std::string data;
  for (const RawTensor& t : tensors) {
    Json shape = Json::MakeArray();
    for (int64_t d : t.shape) shape.Append(d);
    Json offsets = Json::MakeArray();
    offsets.Append(static_cast<int64_t>(data.size()));
    data += t.bytes;
    offsets.Append(static_cast<int64_t>(data.size()));
    Json info = Json::MakeObject();
    info.Set("dtype", t.dtype).Set("shape", shape).Set("data_offsets", offsets);
    header.emplace_back(t.name, std::move(info));
  }
  const std::string json = Json(std::move(header)).Dump();
  const uint64_t length = json.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + json + data;
}

inline RawTensor NumberedTensor(const HubTensor& tensor) {
  int64_t count = 1;
  for (int64_t d : tensor.shape) count *= d;
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i);
  return {tensor.name, "F32", tensor.shape,
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
}

// All tensors of the Hub layout as one file of random numbers, those of norms around 1.
inline std::string RandomSafetensors(const ModelDescription& described, uint64_t seed) {
  SeededRandom random(seed);
  std::vector<RawTensor> tensors;
  for (const HubTensor& tensor : HubTensors(described)) {
    const bool norm = absl::StrContains(tensor.name, "norm");
    int64_t count = 1;
    for (int64_t d : tensor.shape) count *= d;
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) {
      v = static_cast<float>((2 * random.UniformDouble() - 1) * (norm ? 0.1 : 0.25) +
                             (norm ? 1 : 0));
    }
    tensors.push_back(
        {tensor.name, "F32", tensor.shape,
         std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)});
  }
  return SafetensorsBytes(tensors);
}

// All tensors of the Hub layout in one file; the number at place i of a tensor is i.
inline std::unique_ptr<ModelFiles> NumberedModel(const Json& config,
                                                 const ModelDescription& described,
                                                 const std::string& without_prefix = "") {
  std::vector<RawTensor> tensors;
  for (const HubTensor& tensor : HubTensors(described)) {
    tensors.push_back(NumberedTensor(tensor));
    tensors.back().name = std::string(absl::StripPrefix(tensor.name, without_prefix));
  }
  return FilesInMemory(
      {{"config.json", config.Dump()}, {"model.safetensors", SafetensorsBytes(tensors)}});
}

// gpt_oss with experts in MXFP4: stored row r of an expert has the scale 2^(r % 4) and the numbers
// 0.5, 1, 0.5, 1, ...
inline std::unique_ptr<ModelFiles> Mxfp4Model(const Json& config,
                                              const ModelDescription& described) {
  std::vector<RawTensor> tensors;
  for (const HubTensor& tensor : HubTensors(described)) {
    if (tensor.shape.size() != 3) {
      tensors.push_back(NumberedTensor(tensor));
      continue;
    }
    const int64_t experts = tensor.shape[0], groups = tensor.shape[1] / 32, rows = tensor.shape[2];
    std::string scales;
    for (int64_t i = 0; i < experts * rows * groups; ++i) {
      scales += static_cast<char>(127 + i / groups % rows % 4);
    }
    const size_t bytes = static_cast<size_t>(experts * rows * groups * 16);
    tensors.push_back(
        {tensor.name + "_blocks", "U8", {experts, rows, groups, 16}, std::string(bytes, '\x21')});
    tensors.push_back({tensor.name + "_scales", "U8", {experts, rows, groups}, scales});
  }
  return FilesInMemory(
      {{"config.json", config.Dump()}, {"model.safetensors", SafetensorsBytes(tensors)}});
}

// The place in its stored tensor of number `i` of the parameter's matrix `expert`, told from the
// layouts' own definitions and not from TensorSlice.
inline float PlaceOf(const ModelDescription& model, const Parameter& p, int64_t expert, int64_t i) {
  const std::string& type = model.spec.model_type;
  const int64_t columns = p.shape.size() == 1 ? 1 : p.shape.back();
  const int64_t rows = p.shape.size() == 3 ? p.shape[1] : p.shape[0];
  int64_t row = i / columns, column = i % columns;
  const auto ends = [&p](const char* suffix) { return absl::EndsWith(p.name, suffix); };
  const int64_t q = model.spec.q_width(), kv = model.spec.kv_width();
  const bool weight = ends(".weight");
  if (type == "phi3" || type == "gpt2") {
    if (ends("attn.k.weight") || ends("attn.k.bias")) row += q;
    if (ends("attn.v.weight") || ends("attn.v.bias")) row += q + kv;
  }
  if ((type == "phi3" || type == "glm4") && ends("mlp.up.weight")) row += rows;
  if (type == "granitemoe" && p.shape.size() == 3) {
    const bool down = ends("down.weight");
    const int64_t stored_rows = down ? rows : 2 * rows;
    if (ends("up.weight")) row += rows;
    return static_cast<float>((expert * stored_rows + row) * columns + column);
  }
  if (type == "gpt_oss" && absl::StrContains(p.name, "experts")) {
    const bool down = absl::StrContains(p.name, ".down.");
    const int64_t turn = absl::StrContains(p.name, ".up.") ? 1 : 0;
    if (!weight) return static_cast<float>(down ? i : row * 2 * columns + 2 * column + turn);
    const int64_t stored_columns = down ? rows : 2 * rows;
    const int64_t stored_column = down ? row : 2 * row + turn;
    return static_cast<float>((expert * columns + column) * stored_columns + stored_column);
  }
  const bool attention = absl::StrContains(p.name, ".attn.");
  if (type == "gpt2" && weight && (attention || absl::StrContains(p.name, ".mlp."))) {
    const bool fused = attention && !ends(".attn.o.weight");
    const int64_t stored_columns = fused ? 3 * q : rows;
    return static_cast<float>(column * stored_columns + row);
  }
  return static_cast<float>(row * columns + column);
}

}  // namespace graft::spec
