// DataService.Download: ranges of files out, read just ahead of what the client takes.
#pragma once

#include <memory>

#include "fileservice/service/data_plane.h"
#include "graft/v1/data.pb.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"

namespace graft::fileservice {

using RawWriteReactor = grpc::ServerWriteReactor<grpc::ByteBuffer>;

// A reactor that owns itself until gRPC is done with it.
RawWriteReactor* StartDownload(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                               const v1::DownloadRequest& request);

}  // namespace graft::fileservice
