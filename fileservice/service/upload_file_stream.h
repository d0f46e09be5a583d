// DataService.UploadFile: one file as plain bytes, for clients that neither cut nor hash.
#pragma once

#include <memory>

#include "fileservice/service/data_plane.h"
#include "graft/v1/data.pb.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"

namespace graft::fileservice {

using RawReadReactor = grpc::ServerReadReactor<grpc::ByteBuffer>;

// A reactor that owns itself until gRPC is done with it; `response` is gRPC's.
RawReadReactor* StartUploadFile(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                                v1::UploadFileResponse* response);

// OUT_OF_RANGE (OFFSET_MISMATCH) with the offset that is right.
absl::Status OffsetMismatch(absl::string_view path, int64_t got, int64_t expected);

}  // namespace graft::fileservice
