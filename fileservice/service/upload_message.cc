#include "fileservice/service/upload_message.h"

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "graft/v1/data.pb.h"

namespace graft::fileservice {

absl::StatusOr<UploadMessage> ParseUpload(absl::Span<const absl::string_view> parts) {
  UploadMessage message;
  GRAFT_ASSIGN_OR_RETURN(message.payload, wire::Split(parts));
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(wire::Parse(message.payload.rest, [&](const wire::Field& field) {
    switch (field.number) {
      case v1::UploadRequest::kSessionFieldNumber:
        message.session = std::string(field.bytes);
        break;
      case v1::UploadRequest::kSequenceFieldNumber:
        message.sequence = field.varint;
        break;
      case v1::UploadRequest::kEncodingFieldNumber:
        message.encoding = field.varint;
        break;
      case v1::UploadRequest::kChunkSizesFieldNumber:
        malformed.Update(wire::ParseVarints(field, message.sizes));
        break;
      case v1::UploadRequest::kChunkIdsFieldNumber:
        message.ids = std::string(field.bytes);
        break;
      case v1::UploadRequest::kHeldFieldNumber:
        malformed.Update(wire::ParseVarints(field, message.held));
        break;
      default:
        break;
    }
  }));
  GRAFT_RETURN_IF_ERROR(malformed);
  if (message.ids.size() != message.sizes.size() * sizeof(Sha256Digest)) {
    return absl::InvalidArgumentError(absl::StrCat("an upload names ", message.sizes.size(),
                                                   " chunk sizes and ", message.ids.size(),
                                                   " bytes of ids: 32 are needed for each"));
  }
  uint64_t total = 0;
  for (const uint32_t size : message.sizes) total += size;
  for (size_t i = 0; i < message.held.size(); ++i) {
    const uint32_t index = message.held[i];
    if (index >= message.sizes.size() || (i > 0 && index <= message.held[i - 1])) {
      return absl::InvalidArgumentError(
          absl::StrCat("held must be ascending indexes of the ", message.sizes.size(), " chunks"));
    }
    total -= message.sizes[index];
  }
  if (total != message.payload.data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("an upload says ", total, " bytes and has ", message.payload.data_bytes));
  }
  return message;
}

}  // namespace graft::fileservice
