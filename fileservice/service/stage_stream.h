// DataService.StageFiles: which file is which chunks. A client may send the parts of a file while
// it still uploads what follows: the server hashes as they come.
#pragma once

#include <memory>

#include "fileservice/service/data_plane.h"
#include "graft/v1/data.pb.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"

namespace graft::fileservice {

// A reactor that owns itself until gRPC is done with it.
grpc::ServerReadReactor<v1::StageFilesRequest>* StartStage(DataPlane& plane,
                                                           std::shared_ptr<rpc::Call> call,
                                                           v1::StageFilesResponse* response);

}  // namespace graft::fileservice
