#include "fileservice/service/file_hash.h"

#include <cstring>

namespace graft::fileservice {

void FileHash::Take(absl::Span<const absl::string_view> chunks, absl::string_view ids,
                    Sha256Digest* digests) {
  if (!sound_) return Sha256Many(chunks, digests);
  Sha256Many(chunks, digests, &file_, chunks);
  for (size_t i = 0; i < chunks.size(); ++i) {
    sound_ = sound_ && std::memcmp(digests[i].data(), ids.data() + i * sizeof(Sha256Digest),
                                   sizeof(Sha256Digest)) == 0;
  }
  ids_.Update(ids);
}

void FileHash::TakeHeld(absl::string_view bytes, absl::string_view id) {
  file_.Update(bytes);
  ids_.Update(id);
}

void FileHash::End(const std::string& session, VerifiedFiles& verified) {
  if (sound_ && !session.empty()) verified.Put(session, ids_.Finish(), file_.Finish());
  sound_ = false;
}

}  // namespace graft::fileservice
