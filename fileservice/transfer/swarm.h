// Fan-out, from a worker's side: a version is fetched together with the other workers that want it.
// Each piece leaves the fileservice about once; the rest moves between the workers, at the speed of
// their own network.
//
//   GRAFT_ASSIGN_OR_RETURN(auto member, SwarmMember::Fetch(client, version, folder, options));
//   ... the folder holds the version; others are served for as long as `member` lives ...
//
// Every chunk is verified before it is written, announced or served. Who sends wrong bytes is not
// asked again, and reported. Without the tracker, or when nobody has what is missing, pieces come
// from the fileservice. What another process left in the folder is verified and kept.
//
// Pieces travel in plain text between members: the listener binds to the fabric's interface, and
// whoever asks must show the token that the tracker gave to the version's members.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fileservice/transfer/client.h"

namespace graft::fileservice {

struct SwarmOptions {
  // Where this member serves the others; port 0 takes a free one. The host is what they dial.
  std::string listen = "127.0.0.1:0";
  bool allow_remote = false;
  // Pieces that are fetched, and served, at a time.
  int fetches = 4;
  int uploads = 4;
  // Of each direction; 0: as fast as it goes.
  int64_t bytes_per_second = 0;
  // Without a new piece for so long it asks the fileservice itself.
  absl::Duration patience = absl::Seconds(5);
};

class SwarmMember {
 public:
  // FAILED_PRECONDITION for versions that cannot be shared (registered in place, or of more than
  // 1,024 files): use Client::DownloadVersion.
  static absl::StatusOr<std::unique_ptr<SwarmMember>> Fetch(
      Client& client, const std::string& version, const std::string& folder,
      const SwarmOptions& options = {}, const ProgressCallback& progress = nullptr);
  // Leaves.
  ~SwarmMember();

  struct Totals {
    int64_t bytes = 0;
    int64_t from_origin = 0;
    int64_t from_peers = 0;
    int64_t served = 0;
    int64_t wasted = 0;  // arrived twice, or wrong
  };
  Totals totals() const;
  // By number.
  const std::string& version() const;

 private:
  struct State;
  explicit SwarmMember(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::fileservice
