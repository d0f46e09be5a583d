#include "tests/parity/parallel/layout_cases.h"

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>

#include "tests/support/tier.h"

namespace graft::trainer {
namespace {

// Every valid layout of up to eight ranks, and of those an even spread of `count`.
std::vector<spec::Layout> SpreadOfLayouts(const spec::DecoderSpec& spec, size_t count) {
  std::vector<spec::Layout> all;
  for (int64_t tp : {1, 2, 4}) {
    for (int64_t pp : {1, 2, 4}) {
      for (int64_t cp : {1, 2}) {
        for (int64_t dp : {1, 2, 4}) {
          for (int64_t ep : {1, 2, 4}) {
            const int64_t world = tp * pp * cp * dp;
            if (world == 1 || world > 8 || (ep > 1 && !spec.is_moe())) continue;
            const spec::LayoutCheck check = spec::CheckLayout(
                spec,
                {.gpus = world, .tp = tp, .pp = pp, .cp = cp, .ep = ep, .sequence = kMaxLength});
            if (check.ok()) all.push_back(check.layout);
          }
        }
      }
    }
  }
  std::vector<spec::Layout> spread;
  for (size_t i = 0; i < std::min(count, all.size()); ++i) {
    spread.push_back(all[i * all.size() / std::min(count, all.size())]);
  }
  return spread;
}

// Without those that are there before: the spread may meet what was chosen by hand.
std::vector<LayoutCase> Once(std::vector<LayoutCase> cases) {
  std::set<std::string> seen;
  cases.erase(std::remove_if(cases.begin(), cases.end(),
                             [&](const LayoutCase& c) { return !seen.insert(c.Name()).second; }),
              cases.end());
  return cases;
}

}  // namespace

std::vector<LayoutCase> LayoutCases() {
  using TK = TuningKind;
  std::vector<LayoutCase> cases = {
      {"llama", {.pp = 2}, TK::kLora, 0, 2},
      {"llama", {.tp = 2}, TK::kLora, 0, 1, true},
      {"llama", {.tp = 2, .pp = 2}, TK::kLora, 0, 1, false, 0.1},
      {"llama", {.tp = 2, .dp = 2}, TK::kAllWeights, 1},
      {"llama", {.tp = 2, .dp = 2}, TK::kAllWeights, 3},
      {.family = "llama", .layout = {.pp = 2}, .chunks = 2, .device = true},
      {.family = "gpt_oss",
       .layout = {.tp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .device = true},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .tuning = TK::kAllWeights,
       .zero = 1,
       .device = true},
      {.family = "llama",
       .layout = {.tp = 2, .pp = 2},
       .device = true,
       .precision = Precision::kBf16},
      {.family = "qwen3",
       .layout = {.tp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .precision = Precision::kBf16},
      {.family = "llama", .layout = {.pp = 2, .dp = 2}, .precision = Precision::kFp16},
      {.family = "llama",
       .layout = {.tp = 2, .dp = 2},
       .tuning = TK::kAllWeights,
       .zero = 3,
       .device = true},
      {.family = "llama",
       .layout = {.cp = 2},
       .tuning = TK::kAllWeights,
       .optimizer = OptimizerKind::kAdamW8bit},
      // Noise is drawn as one rank draws it where ranks see the same tokens.
      {.family = "llama",
       .layout = {.tp = 2, .pp = 2},
       .sft = {.label_smoothing = 0.1, .neftune_noise_alpha = 5}},
      {.family = "gemma2",
       .layout = {.tp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .sft = {.label_smoothing = 0.1}},
      {"qwen3_moe", {.cp = 2, .dp = 2, .ep = 2}, TK::kAllWeights, 3},
      {.family = "qwen3_moe",
       .layout = {.tp = 2, .pp = 2, .cp = 2},
       .tuning = TK::kAllWeights,
       .balanced = true},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .tuning = TK::kAllWeights,
       .chunks = 2,
       .device = true,
       .balanced = true},
      {.family = "llama",
       .layout = {.tp = 2, .dp = 2},
       .targets = {"embed_tokens", "lm_head", "q_proj"},
       .whole = {"norm"}},
      // Its head is its embedding: each end is trained without the other.
      {.family = "gemma3_text", .layout = {.tp = 2, .pp = 2}, .whole = {"embed_tokens"}},
      {.family = "gemma3_text", .layout = {.tp = 2, .pp = 2}, .whole = {"lm_head"}},
      {.family = "gemma3_text", .layout = {.pp = 2}, .targets = {"embed_tokens", "lm_head"}},
      {.family = "gpt_oss", .layout = {.tp = 2, .pp = 2}, .targets = {"experts", "q_proj"}},
      {.family = "gpt_oss", .layout = {.cp = 2, .ep = 2}, .targets = {"down_proj"}},
      {.family = "qwen3_moe",
       .layout = {.pp = 2, .dp = 2, .ep = 2},
       .targets = {"experts", "o_proj"},
       .whole = {"lm_head"}},
      {.family = "qwen3_moe", .layout = {.dp = 4, .ep = 4}, .zero = 1, .targets = {"experts"}}};
  if (testing::CurrentTier() == testing::Tier::kDefault) {
    const std::vector<LayoutCase> few = {
        {"llama", {.tp = 2, .pp = 2}, TK::kAllWeights},
        {"qwen3", {.tp = 4}, TK::kLora},
        {"gemma3_text", {.pp = 4}, TK::kAllWeights},
        {"gemma3_text", {.tp = 2, .cp = 2}, TK::kAllWeights},
        {"gpt_oss", {.tp = 2, .cp = 2}, TK::kAllWeights},
        {"qwen3_moe", {.cp = 2, .dp = 2, .ep = 4}, TK::kAllWeights},
        {"deepseek_v3", {.pp = 2, .dp = 2, .ep = 2}, TK::kAllWeights},
        {"deepseek_v3", {.tp = 2}, TK::kLora},
        // Both ends of the pipeline hold the table; other numbers stand before it on one of them.
        {"gpt2", {.tp = 2, .pp = 2}, TK::kAllWeights},
    };
    cases.insert(cases.end(), few.begin(), few.end());
    return cases;
  }
  if (std::getenv("GRAFT_SOURCE_DIR") == nullptr) return cases;
  for (const char* family :
       {"llama", "qwen3", "gemma3_text", "gpt_oss", "qwen3_moe", "deepseek_v3"}) {
    const spec::DecoderSpec spec = RandomModel({.family = family}).description.spec;
    for (const spec::Layout& layout : SpreadOfLayouts(spec, 10)) {
      for (const TK tuning : {TK::kLora, TK::kAllWeights})
        cases.push_back({family, layout, tuning});
      if (layout.dp > 1) cases.push_back({family, layout, TK::kAllWeights, 1});
      if (layout.dp * layout.cp > 1 && layout.pp == 1) {
        cases.push_back({family, layout, TK::kAllWeights, 3});
      }
    }
  }
  for (const char* family : {"olmo2", "phi3", "cohere", "gpt2"}) {
    cases.push_back({family, {.tp = 2, .pp = 2}, TK::kAllWeights});
    cases.push_back({family, {.tp = 2, .cp = 2}, TK::kLora});
  }
  return Once(std::move(cases));
}

}  // namespace graft::trainer
