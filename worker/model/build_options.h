// What BuildDecoder (decoder_build.h) is to make of a model's files.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "worker/model/division.h"
#include "worker/model/parameter_store.h"

namespace graft::model {

enum class Train { kNothing, kLora, kAllWeights };

// Which biases are trained beside the adapters: none, all, or those of linears with an adapter.
enum class TrainedBias { kNone, kAll, kAdapted };

// How A is drawn: kaiming uniform as peft draws it, or normal with a deviation of 1 / rank.
enum class LoraInit { kKaiming, kGaussian };

struct LoraOptions {
  int64_t rank = 16;
  double alpha = 32;
  double dropout = 0;
  bool rslora = false;
  bool dora = false;
  // By suffix of the Hub name ("q_proj"), "all-linear", or one "re:..." over the whole name. Empty:
  // every linear but the head. Embedding ("embed_tokens"), head ("lm_head") and experts ("experts",
  // or "gate_up_proj" and "down_proj" of them) are adapted where they are named, never by
  // "all-linear" or by default.
  std::vector<std::string> target_modules;
  // Of those, the ones that are left out, in the same forms.
  std::vector<std::string> exclude_modules;
  // Of those, the ones in these layers, counted from 0; empty: in all.
  std::vector<int64_t> layers_to_transform;
  // Trained whole beside the adapters, by suffix of the Hub name: embedding, head and norms.
  std::vector<std::string> modules_to_save;
  TrainedBias bias = TrainedBias::kNone;
  LoraInit init = LoraInit::kKaiming;
  uint64_t seed = 0;  // of A; B is 0
};

struct BuildOptions {
  Train train = Train::kNothing;
  LoraOptions lora;
  // Of activations and products; what is trained, and norms, stay in fp32.
  at::ScalarType compute_type = at::kFloat;
  // What frozen matrices are kept in; another type than `compute_type` is converted for each use.
  at::ScalarType frozen_type = at::kFloat;
  // Where the model lives: its tensors go there as they are read.
  at::Device device = at::kCPU;
  // Linears of a quantised base stay in their blocks where their rows can be taken out of the file
  // and the model lives in a CPU's memory.
  bool keep_blocks = false;
  // Of several ranks: what this one holds. No other bytes of the files are read.
  Division division;
  // Frozen tensors get their shapes alone, and no memory until they are written to: for a decoder
  // that another source fills, or of which only the trained tensors are wanted.
  bool without_frozen = false;
  // Where the layers' trained numbers stand apart (parameter_store.h): told that the store has its
  // memory, then of each layer whose values came and were filled.
  bool layers_apart = false;
  std::function<void(ParameterStore&)> allocated;
  std::function<void(int64_t layer)> filled;
};

}  // namespace graft::model
