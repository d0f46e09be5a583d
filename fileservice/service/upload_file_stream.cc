#include "fileservice/service/upload_file_stream.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/data_stream.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/transfer/wire.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

class UploadFileStream final : public IncomingStream<RawReadReactor> {
 public:
  UploadFileStream(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                   v1::UploadFileResponse* response)
      : IncomingStream(plane, std::move(call)), response_(response) {}

 private:
  absl::StatusOr<Next> Take(absl::Span<const absl::string_view> parts) override {
    GRAFT_ASSIGN_OR_RETURN(const wire::SplitMessage split, wire::Split(parts));
    v1::UploadFileRequest head;
    if (!head.ParseFromArray(split.rest.data(), static_cast<int>(split.rest.size()))) {
      return absl::InvalidArgumentError("the message is no protobuf");
    }
    if (intake_ == nullptr) GRAFT_RETURN_IF_ERROR(Open(head));
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
    if (!head.finish() && !intake_->full()) return Next::kRead;
    GRAFT_ASSIGN_OR_RETURN(const Entry entry, intake_->Finish(expected_, executable_));
    response_->set_durable_size(entry.size);
    response_->set_complete(true);
    response_->set_sha256(std::string(BytesOf(entry.sha256)));
    return Next::kStop;
  }

  absl::Status Open(const v1::UploadFileRequest& head) {
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

  void ReadingEnded() override { Stop(Cease()); }

  // Lets go of the file first, so that the client may send it again as soon as it has its answer.
  void Stop(const absl::Status& status) override {
    intake_.reset();
    End(status);
  }

  v1::UploadFileResponse* const response_;
  std::unique_ptr<FileIntake> intake_;  // null before the first message
  std::string path_;
  std::optional<Sha256Digest> expected_;
  bool executable_ = false;
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
  return StartStream<UploadFileStream>(plane, std::move(call), response);
}

}  // namespace graft::fileservice
