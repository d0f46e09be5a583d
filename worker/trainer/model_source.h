// A base model as it lies in files, with everything around its weights: description, tokenizer,
// chat template and special tokens. A Hugging Face folder or one .gguf file. Free of torch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "base/json.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/tokenizer/tokenizer.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/load.h"
#include "worker/spec/parameter_reader.h"

namespace graft::trainer {

struct ModelSource {
  std::string path;
  std::unique_ptr<spec::ModelFiles> files;
  spec::ModelDescription description;
  std::unique_ptr<spec::ParameterReader> reader;
  std::unique_ptr<data::Tokenizer> tokenizer;
  std::string chat_template_text;  // empty: the model has none
  absl::optional<data::ChatTemplate> chat_template;
  std::string bos_token;
  std::string eos_token;
  int32_t eos_id = -1;
  std::vector<int64_t> stop_ids;  // any of them ends an answer
  // What tokenizer_config.json would say, where the tokenizer comes out of a GGUF file; else null.
  Json tokenizer_config;
  // Adds one BOS to text that no template wrote.
  bool add_bos = false;
};

// `chat_template` replaces the model's own where it is not empty. The result keeps pointers into
// itself, so it is handed out on the heap.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModel(const std::string& path,
                                                       const std::string& chat_template);

}  // namespace graft::trainer
