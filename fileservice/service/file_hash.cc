#include "fileservice/service/file_hash.h"

namespace graft::fileservice {

void FileHash::Take(absl::Span<const absl::string_view> chunks, absl::string_view ids,
                    Sha256Digest* digests) {
  if (!sound_) return Sha256Many(chunks, digests);
  Sha256Many(chunks, digests, &file_, chunks);
  for (size_t i = 0; i < chunks.size(); ++i) {
    const absl::string_view id = ids.substr(i * sizeof(Sha256Digest), sizeof(Sha256Digest));
    sound_ = sound_ && BytesOf(digests[i]) == id;
    list_.Add(id, chunks[i].size());
  }
}

void FileHash::TakeHeld(absl::string_view bytes, absl::string_view id) {
  file_.Update(bytes);
  list_.Add(id, bytes.size());
}

void FileHash::End(const std::string& session, VerifiedFiles& verified) {
  if (sound_ && !session.empty()) verified.Put(session, list_.Finish(), file_.Finish());
  sound_ = false;
}

}  // namespace graft::fileservice
