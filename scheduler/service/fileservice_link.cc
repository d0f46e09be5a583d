#include "scheduler/service/fileservice_link.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "graft/v1/data.grpc.pb.h"
#include "graft/v1/fileset.grpc.pb.h"
#include "graft/v1/usage.grpc.pb.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

// Ranges of one remote file. What configuration readers ask for is small; nothing is cached.
class RemoteFile final : public spec::ByteSource {
 public:
  RemoteFile(rpc::Connection& connection, v1::DataService::Stub& stub, std::string version,
             std::string path, int64_t size)
      : connection_(connection),
        stub_(stub),
        version_(std::move(version)),
        path_(std::move(path)),
        size_(size) {}
  int64_t size() const override { return size_; }

  absl::Status ReadAt(int64_t offset, int64_t count, char* out) const override {
    if (offset < 0 || count < 0 || offset > size_ - count) {
      return absl::OutOfRangeError(absl::StrCat(path_, " has ", size_, " bytes"));
    }
    if (count == 0) return absl::OkStatus();
    v1::DownloadRequest request;
    request.set_version(version_);
    auto* range = request.add_ranges();
    range->set_path(path_);
    range->set_offset(offset);
    range->set_length(count);
    grpc::ClientContext context;
    GRAFT_RETURN_IF_ERROR(connection_.Prepare(context, {.deadline = absl::Seconds(60)}));
    auto reader = stub_.Download(&context, request);
    v1::DownloadResponse response;
    int64_t done = 0;
    while (reader->Read(&response)) {
      const std::string& data = response.data();
      const int64_t take = std::min<int64_t>(count - done, static_cast<int64_t>(data.size()));
      std::memcpy(out + done, data.data(), static_cast<size_t>(take));
      done += take;
    }
    GRAFT_RETURN_IF_ERROR(rpc::FromGrpcStatus(reader->Finish()));
    if (done == count) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(path_, " of ", version_, " ended ", count - done, " bytes early"));
  }

 private:
  rpc::Connection& connection_;
  v1::DataService::Stub& stub_;
  const std::string version_;
  const std::string path_;
  const int64_t size_;
};

class RemoteFiles final : public spec::ModelFiles {
 public:
  RemoteFiles(rpc::Connection& connection, v1::DataService::Stub& stub, std::string version,
              absl::btree_map<std::string, int64_t> sizes)
      : connection_(connection),
        stub_(stub),
        version_(std::move(version)),
        sizes_(std::move(sizes)) {}
  std::vector<std::string> Names() const override {
    std::vector<std::string> names;
    for (const auto& [name, size] : sizes_) names.push_back(name);
    return names;
  }
  absl::StatusOr<std::unique_ptr<spec::ByteSource>> Open(const std::string& name) const override {
    const auto it = sizes_.find(name);
    if (it == sizes_.end()) return absl::NotFoundError(absl::StrCat(version_, " has no ", name));
    return std::make_unique<RemoteFile>(connection_, stub_, version_, name, it->second);
  }

 private:
  rpc::Connection& connection_;
  v1::DataService::Stub& stub_;
  const std::string version_;
  const absl::btree_map<std::string, int64_t> sizes_;
};

FilesetVersion ToVersion(const v1::FileSetVersion& version) {
  return {version.name(), version.digest(), version.size_bytes()};
}

class GrpcLink final : public FileserviceLink {
 public:
  explicit GrpcLink(std::unique_ptr<rpc::Connection> connection)
      : connection_(std::move(connection)),
        filesets_(connection_->channel()),
        data_(connection_->channel()),
        storage_(connection_->channel()) {}

  absl::StatusOr<FilesetVersion> Resolve(const std::string& name) override {
    v1::GetFileSetVersionRequest request;
    request.set_name(
        absl::StrContains(name, "/versions/") ? name : absl::StrCat(name, "/versions/latest"));
    GRAFT_ASSIGN_OR_RETURN(v1::FileSetVersion version,
                           connection_->Call<v1::FileSetVersion>(
                               filesets_, &v1::FileSetService::Stub::GetFileSetVersion, request,
                               {.idempotent = true}));
    return ToVersion(version);
  }

  absl::StatusOr<int64_t> FreeBytes() override {
    MutexLock lock(free_mu_);
    if (absl::Now() - free_asked_ < absl::Seconds(30)) return free_bytes_;
    free_asked_ = absl::Now();
    v1::GetStorageUsageRequest request;
    request.set_parent("workspaces/-");
    const auto usage = connection_->Call<v1::GetStorageUsageResponse>(
        storage_, &v1::StorageService::Stub::GetStorageUsage, request, {.idempotent = true});
    if (usage.ok()) {
      free_bytes_ = usage->free_bytes();
    } else {
      free_bytes_ = usage.status();
    }
    return free_bytes_;
  }

  absl::Status PutPin(const std::string& version, const std::string& holder) override {
    v1::PutPinRequest request;
    request.mutable_pin()->set_version(version);
    request.mutable_pin()->set_holder(holder);
    return connection_
        ->Call<v1::Pin>(filesets_, &v1::FileSetService::Stub::PutPin, request, {.idempotent = true})
        .status();
  }

  absl::Status DeletePin(const std::string& version, const std::string& holder) override {
    v1::DeletePinRequest request;
    request.mutable_pin()->set_version(version);
    request.mutable_pin()->set_holder(holder);
    const absl::Status status =
        connection_
            ->Call<google::protobuf::Empty>(filesets_, &v1::FileSetService::Stub::DeletePin,
                                            request, {.idempotent = true})
            .status();
    return absl::IsNotFound(status) ? absl::OkStatus() : status;
  }

  absl::Status DeleteVersion(const std::string& version) override {
    v1::DeleteFileSetVersionRequest request;
    request.set_name(version);
    const absl::Status status = connection_
                                    ->Call<google::protobuf::Empty>(
                                        filesets_, &v1::FileSetService::Stub::DeleteFileSetVersion,
                                        request, {.idempotent = true})
                                    .status();
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    v1::ListFileSetVersionsRequest rest;
    rest.set_parent(version.substr(0, version.find("/versions/")));
    rest.set_page_size(1);
    const auto page = connection_->Call<v1::ListFileSetVersionsResponse>(
        filesets_, &v1::FileSetService::Stub::ListFileSetVersions, rest, {.idempotent = true});
    if (absl::IsNotFound(page.status())) return absl::OkStatus();
    if (!page.ok() || !page->versions().empty()) return page.status();
    return DeleteFileset(rest.parent());
  }

  absl::StatusOr<std::vector<PinInfo>> ListPins() override {
    std::vector<PinInfo> pins;
    v1::ListPinsRequest request;
    request.set_parent("workspaces/-");
    request.set_page_size(1000);
    do {
      GRAFT_ASSIGN_OR_RETURN(
          const v1::ListPinsResponse page,
          connection_->Call<v1::ListPinsResponse>(filesets_, &v1::FileSetService::Stub::ListPins,
                                                  request, {.idempotent = true}));
      for (const v1::Pin& pin : page.pins()) {
        pins.push_back(
            {pin.version(), pin.holder(), absl::FromUnixSeconds(pin.create_time().seconds())});
      }
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return pins;
  }

  absl::Status DeleteFilesets(const std::string& workspace) override {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<PinInfo> pins, ListPins());
    for (const PinInfo& pin : pins) {
      if (!absl::StartsWith(pin.version, absl::StrCat(workspace, "/"))) continue;
      GRAFT_RETURN_IF_ERROR(DeletePin(pin.version, pin.holder));
    }
    v1::ListFileSetsRequest request;
    request.set_parent(workspace);
    request.set_page_size(1000);
    for (;;) {
      GRAFT_ASSIGN_OR_RETURN(
          const v1::ListFileSetsResponse page,
          connection_->Call<v1::ListFileSetsResponse>(
              filesets_, &v1::FileSetService::Stub::ListFileSets, request, {.idempotent = true}));
      if (page.filesets().empty()) return absl::OkStatus();
      for (const v1::FileSet& fileset : page.filesets()) {
        GRAFT_RETURN_IF_ERROR(DeleteFileset(fileset.name()));
      }
    }
  }

  absl::Status EnsureFileset(const std::string& fileset, int purpose) override {
    const std::vector<std::string> parts = absl::StrSplit(fileset, '/');
    if (parts.size() != 4)
      return absl::InvalidArgumentError(absl::StrCat(fileset, " is no fileset"));
    v1::CreateFileSetRequest request;
    request.set_parent(absl::StrCat(parts[0], "/", parts[1]));
    request.set_fileset_id(parts[3]);
    request.mutable_fileset()->set_purpose(static_cast<v1::FileSetPurpose>(purpose));
    const absl::Status status =
        connection_->Call<v1::FileSet>(filesets_, &v1::FileSetService::Stub::CreateFileSet, request)
            .status();
    return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
  }

  absl::StatusOr<std::string> OpenSession(const std::string& fileset) override {
    v1::CreateUploadSessionRequest request;
    request.set_parent(fileset);
    request.mutable_upload_session()->set_fenced(true);
    GRAFT_ASSIGN_OR_RETURN(v1::UploadSession session,
                           connection_->Call<v1::UploadSession>(
                               data_, &v1::DataService::Stub::CreateUploadSession, request));
    return session.name();
  }

  absl::StatusOr<FilesetVersion> Publish(const std::string& session, const std::string& holder,
                                         const std::string& message) override {
    v1::PublishRequest request;
    request.set_session(session);
    request.set_pin_holder(holder);
    request.set_message(message);
    GRAFT_ASSIGN_OR_RETURN(v1::FileSetVersion version, connection_->Call<v1::FileSetVersion>(
                                                           data_, &v1::DataService::Stub::Publish,
                                                           request, {.idempotent = true}));
    return ToVersion(version);
  }

  absl::StatusOr<std::unique_ptr<spec::ModelFiles>> OpenModel(const std::string& version) override {
    absl::btree_map<std::string, int64_t> sizes;
    v1::ListFilesRequest request;
    request.set_parent(version);
    request.set_page_size(1000);
    do {
      GRAFT_ASSIGN_OR_RETURN(
          v1::ListFilesResponse page,
          connection_->Call<v1::ListFilesResponse>(filesets_, &v1::FileSetService::Stub::ListFiles,
                                                   request, {.idempotent = true}));
      for (const v1::FileEntry& file : page.files()) sizes[file.path()] = file.size();
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return std::make_unique<RemoteFiles>(*connection_, data_, version, std::move(sizes));
  }

 private:
  absl::Status DeleteFileset(const std::string& name) {
    v1::DeleteFileSetRequest gone;
    gone.set_name(name);
    gone.set_allow_missing(true);
    return connection_
        ->Call<google::protobuf::Empty>(filesets_, &v1::FileSetService::Stub::DeleteFileSet, gone,
                                        {.idempotent = true})
        .status();
  }

  std::unique_ptr<rpc::Connection> connection_;
  v1::FileSetService::Stub filesets_;
  v1::DataService::Stub data_;
  v1::StorageService::Stub storage_;
  Mutex free_mu_;
  absl::StatusOr<int64_t> free_bytes_ GRAFT_GUARDED_BY(free_mu_) = 0;
  absl::Time free_asked_ GRAFT_GUARDED_BY(free_mu_) = absl::InfinitePast();
};

class NoLink final : public FileserviceLink {
 public:
  absl::StatusOr<FilesetVersion> Resolve(const std::string&) override { return None(); }
  absl::StatusOr<int64_t> FreeBytes() override { return None(); }
  absl::Status PutPin(const std::string&, const std::string&) override { return None(); }
  absl::Status DeletePin(const std::string&, const std::string&) override { return None(); }
  absl::Status DeleteVersion(const std::string&) override { return None(); }
  absl::StatusOr<std::vector<PinInfo>> ListPins() override { return None(); }
  absl::Status DeleteFilesets(const std::string&) override { return None(); }
  absl::Status EnsureFileset(const std::string&, int) override { return None(); }
  absl::StatusOr<std::string> OpenSession(const std::string&) override { return None(); }
  absl::StatusOr<FilesetVersion> Publish(const std::string&, const std::string&,
                                         const std::string&) override {
    return None();
  }
  absl::StatusOr<std::unique_ptr<spec::ModelFiles>> OpenModel(const std::string&) override {
    return None();
  }

 private:
  static absl::Status None() {
    return rpc::ErrorBuilder(absl::StatusCode::kUnavailable,
                             "no fileservice is configured; start the scheduler with "
                             "--fileservice HOST:PORT")
        .Reason("DEPENDENCY_UNAVAILABLE")
        .Metadata("service", "fileservice")
        .Build();
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<FileserviceLink>> ConnectFileservice(rpc::DialOptions options) {
  GRAFT_ASSIGN_OR_RETURN(auto connection, rpc::Connection::Dial(std::move(options)));
  return std::make_unique<GrpcLink>(std::move(connection));
}

std::unique_ptr<FileserviceLink> NoFileservice() { return std::make_unique<NoLink>(); }

}  // namespace graft::scheduler
