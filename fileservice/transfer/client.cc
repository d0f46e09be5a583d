#include "fileservice/transfer/client.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "fileservice/transfer/state.h"
#include "fileservice/transfer/upload_state.h"

namespace graft::fileservice {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
constexpr absl::Duration kLongestPause = absl::Seconds(10);

class RangeReader final : public RemoteFileReader {
 public:
  RangeReader(Link& link, std::string version, RemoteFile file, int attempts)
      : link_(link), version_(std::move(version)), file_(std::move(file)), attempts_(attempts) {}

  int64_t size() const override { return file_.size; }

  absl::Status ReadAt(int64_t offset, size_t length, char* out) override {
    if (offset < 0 || offset > file_.size || static_cast<int64_t>(length) > file_.size - offset) {
      return absl::OutOfRangeError(absl::StrCat("\"", file_.path, "\" has ", file_.size,
                                                " bytes: no ", length, " at ", offset));
    }
    if (length == 0) return absl::OkStatus();
    int64_t done = 0;
    int64_t told = 0;
    const auto made_progress = [&] { return std::exchange(told, done) != done; };
    return WithRetries(attempts_, made_progress, [&] {
      return link_.Download(version_, file_.path, offset + done,
                            static_cast<int64_t>(length) - done, [&](const Piece& piece) {
                              std::memcpy(out + done, piece.bytes.data(), piece.bytes.size());
                              done += static_cast<int64_t>(piece.bytes.size());
                              return absl::OkStatus();
                            });
    });
  }

 private:
  Link& link_;
  const std::string version_;
  const RemoteFile file_;
  const int attempts_;
};

std::string AbsolutePath(const std::string& path) {
  std::error_code error;
  const std::filesystem::path absolute = std::filesystem::absolute(path, error);
  return error ? path : absolute.lexically_normal().string();
}

}  // namespace

absl::Status WithRetries(int attempts, const std::function<bool()>& made_progress,
                         const std::function<absl::Status()>& attempt) {
  absl::Duration pause = kFirstPause;
  for (int failures = 0;;) {
    const absl::Status status = attempt();
    if (status.ok() || !IsTransient(status)) return status;
    if (made_progress()) {
      failures = 0;
      pause = kFirstPause;
    }
    if (++failures >= attempts) return status;
    absl::SleepFor(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
}

Client::Client(std::unique_ptr<State> state) : state_(std::move(state)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(Options options) {
  auto state = std::make_unique<State>();
  GRAFT_ASSIGN_OR_RETURN(state->link, Link::Dial(options));
  state->options = std::move(options);
  return std::unique_ptr<Client>(new Client(std::move(state)));
}

absl::StatusOr<std::string> Client::CreateUploadSession(const std::string& fileset,
                                                        const UploadOptions& options, bool fenced) {
  if (options.create_fileset) {
    GRAFT_RETURN_IF_ERROR(state_->link->CreateFileset(fileset, options.purpose));
  }
  return state_->link->CreateSession(fileset, options, fenced);
}

absl::StatusOr<Published> Client::UploadFolder(const std::string& path, const std::string& fileset,
                                               const UploadOptions& options,
                                               const ProgressCallback& progress) {
  const std::unique_ptr<UploadState> noted = UploadState::Open(
      options.state_folder, absl::StrCat(state_->options.address, "\n", fileset, "\n",
                                         options.base_version, "\n", AbsolutePath(path)));
  std::string session = noted == nullptr ? std::string() : noted->Session();
  if (!session.empty()) {
    const absl::StatusOr<bool> open = state_->link->IsSessionOpen(session);
    if (!open.ok() || !*open) session.clear();
  }
  if (session.empty()) {
    GRAFT_ASSIGN_OR_RETURN(session, CreateUploadSession(fileset, options));
    if (noted != nullptr) noted->Note(session);
  }
  const absl::StatusOr<Uploaded> uploaded = UploadIntoSession(path, session, options, progress);
  if (!uploaded.ok()) {
    const bool resumable = IsTransient(uploaded.status()) || absl::IsCancelled(uploaded.status());
    if (noted != nullptr && resumable) return uploaded.status();
    // What it holds is released now instead of when it expires.
    AbortUploadSession(session).IgnoreError();
    if (noted != nullptr) noted->Forget();
    return uploaded.status();
  }
  GRAFT_ASSIGN_OR_RETURN(Published published, Publish(session, options));
  if (noted != nullptr) noted->Forget();
  published.totals = uploaded->totals;
  return published;
}

absl::StatusOr<Published> Client::Publish(const std::string& session, const UploadOptions& options,
                                          const std::string& pin_holder) {
  return state_->link->Publish(session, options, pin_holder);
}

absl::Status Client::AbortUploadSession(const std::string& session) {
  return state_->link->AbortSession(session);
}

absl::StatusOr<std::string> Client::ResolveVersion(const std::string& version) {
  return state_->link->ResolveVersion(version);
}

absl::StatusOr<std::vector<RemoteFile>> Client::ListFiles(const std::string& version,
                                                          absl::string_view path_prefix) {
  return state_->link->ListFiles(version, path_prefix);
}

absl::StatusOr<std::unique_ptr<RemoteFileReader>> Client::OpenFile(const std::string& version,
                                                                   const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const std::string resolved, ResolveVersion(version));
  GRAFT_ASSIGN_OR_RETURN(std::vector<RemoteFile> files, ListFiles(resolved, path));
  for (RemoteFile& file : files) {
    if (file.path != path) continue;
    return std::make_unique<RangeReader>(*state_->link, resolved, std::move(file),
                                         state_->options.attempts);
  }
  return absl::NotFoundError(absl::StrCat(version, " has no file \"", path, "\""));
}

}  // namespace graft::fileservice
