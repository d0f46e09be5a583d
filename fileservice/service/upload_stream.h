// DataService.Upload: chunks in, acknowledgements out once they are durable.
#pragma once

#include <memory>

#include "fileservice/service/data_plane.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"

namespace graft::fileservice {

using RawBidiReactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// A reactor that owns itself until gRPC is done with it.
RawBidiReactor* StartUpload(DataPlane& plane, std::shared_ptr<rpc::Call> call);

}  // namespace graft::fileservice
