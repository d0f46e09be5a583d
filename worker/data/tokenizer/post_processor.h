// The post-processors of a tokenizer.json: the tokens put around a text or a pair of texts, and the
// trimming of offsets. Immutable after construction, safe for any number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {

// One encoded text on its way through the post-processors.
struct Sequence {
  absl::string_view text;  // what the offsets refer to: valid UTF-8
  Encoding encoding;
};

class PostProcessor {
 public:
  // How the model spells a token, nothing for added ones; for the trimming of offsets.
  using Spelling = std::function<absl::string_view(int32_t id)>;

  virtual ~PostProcessor() = default;
  // Rewrites one or two sequences; afterwards they are in order what is put together.
  virtual absl::Status Apply(std::vector<Sequence>& sequences, const EncodeOptions& options,
                             const Spelling& spelling) const = 0;
};

// From the member `post_processor`; nullptr where it is null.
absl::StatusOr<std::unique_ptr<PostProcessor>> ParsePostProcessor(const Json* json);

}  // namespace graft::data
