// The decoders of a tokenizer.json: a chain of rewrites of the list of tokens, joined at the end.
// Immutable after construction, safe for any number of threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"

namespace graft::data {

class Decoder {
 public:
  // How much of the tokens before and after decides what a token becomes.
  enum class Reach {
    kBytes,       // only the bytes of a character that is spread over several tokens
    kByteTokens,  // a run of <0x..> tokens, which is decoded as a whole
    kAll,         // anything: a stream has to decode again what it may still change
  };

  virtual ~Decoder() = default;
  virtual void Apply(std::vector<std::string>& tokens) const = 0;
  virtual Reach reach() const { return Reach::kAll; }
};

// From the member `decoder`; nullptr where it is null (tokens are then joined by spaces).
absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Json* json);

}  // namespace graft::data
