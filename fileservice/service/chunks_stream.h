// DataService.DownloadChunks: whole chunks of one version, in the order in which they lie on the
// disk.
#pragma once

#include <cstddef>
#include <memory>

#include "fileservice/service/data_plane.h"
#include "fileservice/service/download_stream.h"
#include "graft/v1/data.pb.h"
#include "rpc/call.h"

namespace graft::fileservice {

// Chunks that one request names.
inline constexpr size_t kMaxIds = 65536;

// A reactor that owns itself until gRPC is done with it.
RawWriteReactor* StartDownloadChunks(DataPlane& plane, std::shared_ptr<rpc::Call> call,
                                     const v1::DownloadChunksRequest& request);

}  // namespace graft::fileservice
