// Where the tokens of an answer come from: each call puts more tokens behind those of the calls
// before and hands out the logits of the last one, fp32 [V] in the CPU's memory. Throws what the
// model's passes throw.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "worker/model/decoder.h"

namespace graft::trainer {

using Continuation = std::function<at::Tensor(const std::vector<int32_t>& tokens)>;

// For at most `capacity` tokens; `decoder` must outlive it.
inline Continuation ContinueWithCache(const model::Decoder& decoder, int64_t capacity) {
  auto cache = std::make_shared<model::KvCache>(decoder.MakeCache(capacity));
  return [&decoder, cache](const std::vector<int32_t>& tokens) {
    return decoder.Extend(tokens, *cache);
  };
}

}  // namespace graft::trainer
