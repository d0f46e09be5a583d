// Hashes what comes through an upload stream as if it were one file: clients send a large file over
// a stream of its own, and name what they need not send. Where nothing of it was left out, staging
// need not read it again. For one stream.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/digest.h"
#include "base/sha256_many.h"
#include "fileservice/service/verified_files.h"

namespace graft::fileservice {

class FileHash {
 public:
  // Writes the digests of the next chunks. `ids`: what they are called, 32 bytes each; nothing is
  // known any more of a stream with a chunk that is not what it is called.
  void Take(absl::Span<const absl::string_view> chunks, absl::string_view ids,
            Sha256Digest* digests);
  // The next chunk, which was not sent and was read here.
  void TakeHeld(absl::string_view bytes, absl::string_view id);
  // Something of the file could not be read here.
  void GiveUp() { sound_ = false; }
  bool sound() const { return sound_; }
  // The stream has ended in order.
  void End(const std::string& session, VerifiedFiles& verified);

 private:
  bool sound_ = true;
  Sha256Stream file_;
  ChunkListHash list_;
};

}  // namespace graft::fileservice
