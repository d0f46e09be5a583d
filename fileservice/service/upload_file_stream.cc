#include "fileservice/service/upload_file_stream.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/transfer/slices.h"
#include "fileservice/transfer/wire.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

class UploadFileStream final : public RawReadReactor,
                               public Watched,
                               public std::enable_shared_from_this<UploadFileStream> {
 public:
  UploadFileStream(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                   v1::UploadFileResponse* response)
      : plane_(plane), call_(std::move(call)), response_(response) {}

  void Start() {
    self_ = shared_from_this();
    plane_.watch.Watch(self_);
    StartRead(&incoming_);
  }

  void OnStall() override { End(StalledError(plane_.watch.timeout())); }

 private:
  void OnReadDone(bool ok) override {
    Touch(plane_.clock);
    if (!ok) return EndReading(Cease());
    const auto bytes = static_cast<int64_t>(incoming_.Length());
    auto self = shared_from_this();
    if (plane_.budget.Acquire(bytes, [self, bytes] { self->Process(bytes); })) Process(bytes);
  }

  void Process(int64_t bytes) {
    const absl::Status status = TakeMessage();
    plane_.budget.Release(bytes);
    Touch(plane_.clock);
    if (!status.ok() || complete_) return EndReading(status);
    incoming_.Clear();
    MutexLock lock(mu_);
    if (!finished_) StartRead(&incoming_);
  }

  absl::Status TakeMessage() {
    std::vector<grpc::Slice> slices;
    if (!incoming_.Dump(&slices).ok()) {
      return absl::InternalError("a message of UploadFile cannot be read");
    }
    GRAFT_ASSIGN_OR_RETURN(const wire::SplitMessage split, wire::Split(Views(slices)));
    v1::UploadFileRequest head;
    if (!head.ParseFromArray(split.rest.data(), static_cast<int>(split.rest.size()))) {
      return absl::InvalidArgumentError("the message is no protobuf");
    }
    if (intake_ == nullptr) GRAFT_RETURN_IF_ERROR(Begin(head));
    if (head.offset() != intake_->offset()) {
      return OffsetMismatch(path_, head.offset(), intake_->offset());
    }
    if (!head.sha256().empty()) {
      if (head.sha256().size() != sizeof(Sha256Digest)) {
        return absl::InvalidArgumentError("sha256 must have 32 bytes");
      }
      expected_ = DigestFromBytes(head.sha256());
    }
    for (const absl::string_view bytes : split.data) {
      GRAFT_RETURN_IF_ERROR(intake_->Take(bytes));
    }
    if (!head.finish() && !intake_->full()) return absl::OkStatus();
    GRAFT_ASSIGN_OR_RETURN(const Entry entry, intake_->Finish(expected_, executable_));
    complete_ = true;
    response_->set_durable_size(entry.size);
    response_->set_complete(true);
    response_->set_sha256(std::string(BytesOf(entry.sha256)));
    return absl::OkStatus();
  }

  absl::Status Begin(const v1::UploadFileRequest& head) {
    GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                           UsableSession(plane_.catalog, *call_, head.session()));
    path_ = head.path();
    executable_ = head.executable();
    GRAFT_ASSIGN_OR_RETURN(
        intake_,
        FileIntake::Open(plane_, session, path_,
                         head.has_size() ? std::optional<int64_t>(head.size()) : std::nullopt));
    return absl::OkStatus();
  }

  // The client has ended its stream before the file: what came is kept.
  absl::Status Cease() {
    if (intake_ == nullptr) return absl::InvalidArgumentError("an upload without a message");
    GRAFT_ASSIGN_OR_RETURN(const int64_t durable, intake_->Pause());
    response_->set_durable_size(durable);
    return absl::OkStatus();
  }

  // Lets go of the file first, so that the client may send it again as soon as it has its answer.
  void EndReading(const absl::Status& status) {
    intake_.reset();
    End(status);
  }

  void End(const absl::Status& status) {
    MutexLock lock(mu_);
    if (std::exchange(finished_, true)) return;
    Finish(rpc::ToGrpcStatus(call_->Finish(status)));
  }

  void OnDone() override { const std::shared_ptr<UploadFileStream> self = std::move(self_); }

  DataPlane& plane_;
  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  v1::UploadFileResponse* const response_;
  std::shared_ptr<UploadFileStream> self_;  // gRPC's reference, until OnDone
  // Of the reading side.
  grpc::ByteBuffer incoming_;
  std::unique_ptr<FileIntake> intake_;  // null before the first message
  std::string path_;
  std::optional<Sha256Digest> expected_;
  bool executable_ = false;
  bool complete_ = false;

  Mutex mu_;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace

absl::Status OffsetMismatch(absl::string_view path, int64_t got, int64_t expected) {
  return rpc::ErrorBuilder(absl::StatusCode::kOutOfRange,
                           absl::StrCat("\"", path, "\" goes on at ", expected, ", not at ", got))
      .Reason("OFFSET_MISMATCH")
      .Metadata("path", path)
      .Metadata("expected_offset", absl::StrCat(expected))
      .Build();
}

RawReadReactor* StartUploadFile(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                                v1::UploadFileResponse* response) {
  auto stream = std::make_shared<UploadFileStream>(plane, std::move(call), response);
  stream->Start();
  return stream.get();
}

}  // namespace graft::fileservice
