// The parts of a Tokenizer and how they are put together. For the files of this folder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "base/mutex.h"
#include "worker/data/tokenizer/added_vocabulary.h"
#include "worker/data/tokenizer/decoder.h"
#include "worker/data/tokenizer/model.h"
#include "worker/data/tokenizer/normalizer.h"
#include "worker/data/tokenizer/post_processor.h"
#include "worker/data/tokenizer/pre_tokenizer.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {

// Scratches that wait for their next call, so that each keeps its word cache. Thread-safe.
class ScratchPool {
 public:
  std::unique_ptr<ModelScratch> Take();
  void Give(std::unique_ptr<ModelScratch> scratch);

 private:
  // Calls at the same time beyond these make a scratch of their own and drop it.
  static constexpr size_t kMaxKept = 64;
  Mutex mutex_;
  std::vector<std::unique_ptr<ModelScratch>> free_ GRAFT_GUARDED_BY(mutex_);
};

struct Tokenizer::Impl {
  // The members of a tokenizer.json that the parts below were read from.
  Json parts;
  std::unique_ptr<Normalizer> normalizer;
  PreTokenizerParts pre_tokenizer;
  std::unique_ptr<Model> model;
  AddedVocabulary added;
  std::unique_ptr<PostProcessor> post_processor;
  std::unique_ptr<Decoder> decoder;
  mutable ScratchPool scratches;

  // Reads all parts but the model out of the members of a tokenizer.json.
  absl::Status ReadParts(const Json& json);
  absl::Status EncodeOne(absl::string_view text, const EncodeOptions& options,
                         Sequence& sequence) const;
  absl::Status PostProcess(std::vector<Sequence> sequences, const EncodeOptions& options,
                           Encoding& out) const;
  absl::string_view Spelling(int32_t id) const;
  // What the decoder is given for `id`; false where the id is unknown or left out.
  bool DecodedToken(int32_t id, const DecodeOptions& options, std::string& token) const;
  std::string Join(std::vector<std::string> tokens) const;

 private:
  absl::StatusOr<PreTokenized> Prepare(absl::string_view text, const EncodeOptions& options) const;
  absl::Status AppendTokens(const PreTokenized& text, const EncodeOptions& options,
                            ModelScratch& scratch, Encoding& out) const;
};

}  // namespace graft::data
