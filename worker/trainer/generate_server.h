// `graft-trainer --generate`: requests from stdin, answers to stdout, JSON lines both
// (generate_protocol.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::trainer {

enum class WeightsType { kAuto, kFp32, kBf16 };

struct GenerateOptions {
  std::string model;
  std::string adapter;        // a PEFT folder; empty: none
  std::string chat_template;  // in place of the model's own; empty: that
  // What weights are kept in; auto is bf16 unless the files hold fp32 numbers.
  WeightsType weights = WeightsType::kAuto;
  int threads = 0;
  int in_fd = 0;
  int out_fd = 1;
};

// Until the end of the input.
absl::Status ServeGenerate(const GenerateOptions& options);

}  // namespace graft::trainer
