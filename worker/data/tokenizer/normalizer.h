// The normalizers of a tokenizer.json: what is done to the text before it is split.
// Immutable after construction, safe for any number of threads.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "worker/data/tokenizer/aligned_text.h"

namespace graft::data {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual absl::Status Apply(EditableText& text) const = 0;
  // True where Apply() would change nothing; false says nothing.
  virtual bool Keeps(absl::string_view text) const { return false; }
};

// From the member `normalizer`; nullptr where it is null. INVALID_ARGUMENT or UNIMPLEMENTED names
// the component.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Json* json);

}  // namespace graft::data
