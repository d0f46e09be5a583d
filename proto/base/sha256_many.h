// SHA-256 of many messages, several at a time where the processor has SHA instructions: one chain
// of them waits for its own results most of the time, others fill its gaps (two have 1.5 to 1.7
// times the bytes a second of one, four 1.8). The digests are Sha256's.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/digest.h"

namespace graft {

// A long message whose parts come one after the other. Not thread-safe; used up by Finish().
class Sha256Stream {
 public:
  Sha256Stream();
  ~Sha256Stream();
  Sha256Stream(Sha256Stream&&) noexcept;
  Sha256Stream& operator=(Sha256Stream&&) noexcept;

  void Update(absl::string_view bytes);
  Sha256Digest Finish();

 private:
  friend void Sha256Many(absl::Span<const absl::string_view>, Sha256Digest*, Sha256Stream*,
                         absl::Span<const absl::string_view>);
  struct State;
  std::unique_ptr<State> state_;
};

// Writes the digest of each of `messages` to `digests`. With `stream` also extends that by `parts`,
// beside them: the hash of a file and those of its chunks in one pass.
void Sha256Many(absl::Span<const absl::string_view> messages, Sha256Digest* digests,
                Sha256Stream* stream = nullptr, absl::Span<const absl::string_view> parts = {});

}  // namespace graft
