// Inside of transfer/: which session an upload was begun in, kept in a small file until it is
// published, so that another process goes on with it.
#pragma once

#include <memory>
#include <string>

#include "base/file.h"

namespace graft::fileservice {

// Held by one upload at a time; a second of the same arguments gets none and notes nothing.
class UploadState {
 public:
  // `upload` tells this upload from others: where from, where to, on top of what. Null when nothing
  // can be noted, which is no reason not to upload.
  static std::unique_ptr<UploadState> Open(const std::string& folder, const std::string& upload);

  // The session that was noted; empty: none.
  std::string Session() const;
  void Note(const std::string& session) const;
  void Forget() const;

 private:
  UploadState(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  const std::string path_;
  const UniqueFd lock_;
};

}  // namespace graft::fileservice
