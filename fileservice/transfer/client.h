// Filesets from the client's side: folders go up and come down, files are read in ranges. The only
// part of the fileservice that other programs include (the CLI, the worker's agent, the scheduler).
//
//   GRAFT_ASSIGN_OR_RETURN(auto client, Client::Connect({.address = "store:7071", .token =
//   token})); GRAFT_ASSIGN_OR_RETURN(Published up, client->UploadFolder("./data",
//   "workspaces/w/filesets/d")); GRAFT_ASSIGN_OR_RETURN(auto down,
//   client->DownloadVersion(up.version, "./copy"));
//
// Uploads send only chunks that the store lacks; a cut is taken up where it was. Downloads are
// verified file by file, write beside the target and rename, never leave the target folder and
// follow no link in it; a state file lets another process go on. Transfers end with ABORTED when no
// byte moves for Options::stall_timeout: they never hang.
//
// Thread-safe; every call blocks. Calls may run side by side on one client.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::fileservice {

struct Progress {
  int64_t total_bytes = 0;  // of all files; 0 while it is not known
  int64_t done_bytes = 0;   // of them in place, however they got there
  int64_t moved_bytes = 0;  // went over the network
  int64_t saved_bytes = 0;  // were at the other end already
  int64_t total_files = 0;
  int64_t done_files = 0;
  double bytes_per_second = 0;  // of done_bytes, over the last seconds
  absl::Duration eta = absl::InfiniteDuration();
};
// Called every Options::progress_interval and once at the end, on a thread of the client's; must
// not block for long. Returning false cancels the transfer (CANCELLED).
using ProgressCallback = std::function<bool(const Progress&)>;

struct UploadOptions {
  std::string message;                        // of the version
  std::map<std::string, std::string> labels;  // of the version
  std::string base_version;                   // a number: its files stay unless replaced
  std::string ref;                            // to move to the new version in the same step
  std::optional<int64_t> expected_latest;     // ABORTED unless the latest version is this
  bool create_fileset = true;                 // when there is none of this name
  // graft.v1.FileSetPurpose of a fileset that is created.
  int purpose = 0;
  // Where UploadFolder notes its session, so that another process takes up what this one began and
  // sends nothing twice. Empty: $XDG_STATE_HOME/graft/uploads, or ~/.local/state/graft/uploads.
  std::string state_folder;
  // Relative paths to leave out, asked per file. Null: all regular files go up, but .git folders.
  std::function<bool(absl::string_view path)> skip;
};

struct Published {
  std::string version;  // workspaces/{w}/filesets/{f}/versions/{number}
  std::string digest;   // sha256:...
  int64_t number = 0;
  Progress totals;
};

struct Uploaded {
  std::string session;
  Progress totals;
};

struct DownloadOptions {
  std::string path_prefix;  // only paths that begin so
  // Files of the target that the version lacks are removed.
  bool remove_others = false;
  // Files from this size on pass by the page cache: what is written once is read later, if at all.
  int64_t direct_io_from_bytes = 64 << 20;
  // Read what is there and keep what is right, instead of trusting size and state file.
  bool verify_existing = true;
  // A folder of this machine's that may have files of the version already, such as one that holds
  // the version before: what is found right there, at the same path, is linked (hard) instead of
  // fetched. Who changes a linked file in place changes both. Where the file system cannot link,
  // the file is fetched. Empty: none.
  std::string link_from;
};

struct Downloaded {
  std::string version;  // by number
  Progress totals;
};

struct RemoteFile {
  std::string path;
  int64_t size = 0;
  std::string sha256;  // 64 hexadecimal digits
  bool executable = false;
};

// Ranges of one file of one version. Thread-safe.
class RemoteFileReader {
 public:
  virtual ~RemoteFileReader() = default;
  virtual int64_t size() const = 0;
  // Reads exactly `length` bytes. OUT_OF_RANGE when they are not all in the file.
  virtual absl::Status ReadAt(int64_t offset, size_t length, char* out) = 0;
};

class Client {
 public:
  struct Options {
    std::string address;  // host:port
    // PEM of the authority that signed the server's certificate; empty: the system's. Plaintext is
    // for loopback addresses alone.
    std::string root_certificates;
    bool insecure = false;
    // PEM, both for mTLS.
    std::string client_certificate;
    std::string client_key;
    // The bearer token of each call, asked anew for each; empty string: none. Null: none.
    std::function<absl::StatusOr<std::string>()> token;
    // Streams that a transfer runs side by side.
    int streams = 2;
    // Bytes that all transfers of this client hold in memory.
    int64_t max_buffered_bytes = 256 << 20;
    absl::Duration stall_timeout = absl::Seconds(30);
    // How often progress is told; zero: for each message.
    absl::Duration progress_interval = absl::Milliseconds(250);
    // A cut is tried again so often while nothing moves, with growing pauses.
    int attempts = 6;
  };
  static absl::StatusOr<std::unique_ptr<Client>> Connect(Options options);
  ~Client();

  // Uploads the folder (or the one file) `path` and publishes it as the next version of `fileset`
  // ("workspaces/{w}/filesets/{f}"). Links are refused by name, not followed. An upload that the
  // network or the process's end has cut is taken up by the next call with the same arguments.
  absl::StatusOr<Published> UploadFolder(const std::string& path, const std::string& fileset,
                                         const UploadOptions& options = {},
                                         const ProgressCallback& progress = nullptr);

  // The parts of it, for a worker that uploads what the scheduler publishes.
  absl::StatusOr<std::string> CreateUploadSession(const std::string& fileset,
                                                  const UploadOptions& options = {},
                                                  bool fenced = false);
  absl::StatusOr<Uploaded> UploadIntoSession(const std::string& path, const std::string& session,
                                             const UploadOptions& options = {},
                                             const ProgressCallback& progress = nullptr);
  // `pin_holder`: see graft.v1.PublishRequest; the scheduler's alone.
  absl::StatusOr<Published> Publish(const std::string& session, const UploadOptions& options = {},
                                    const std::string& pin_holder = "");
  absl::Status AbortUploadSession(const std::string& session);

  // Makes `target` hold the files of `version` ("workspaces/{w}/filesets/{f}/versions/{number,
  // digest, ref or latest}").
  absl::StatusOr<Downloaded> DownloadVersion(const std::string& version, const std::string& target,
                                             const DownloadOptions& options = {},
                                             const ProgressCallback& progress = nullptr);

  // The version by number, whatever named it.
  absl::StatusOr<std::string> ResolveVersion(const std::string& version);
  absl::StatusOr<std::vector<RemoteFile>> ListFiles(const std::string& version,
                                                    absl::string_view path_prefix = "");
  absl::StatusOr<std::unique_ptr<RemoteFileReader>> OpenFile(const std::string& version,
                                                             const std::string& path);

 private:
  friend class SwarmMember;
  struct State;
  explicit Client(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::fileservice
