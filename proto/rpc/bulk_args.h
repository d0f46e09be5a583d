// gRPC's arguments for connections that stream files: a window wider than bandwidth x delay of a
// fast network, the largest HTTP/2 frames, and large reads from the socket. Both ends set them.
#pragma once

#include <array>

namespace graft::rpc {

struct IntArgument {
  const char* name;
  int value;
};

inline constexpr int kBulkMaxMessageBytes = 16 << 20;

inline constexpr std::array<IntArgument, 6> kBulkArguments = {{
    {"grpc.http2.lookahead_bytes", 64 << 20},
    {"grpc.http2.max_frame_size", 16777215},
    {"grpc.experimental.tcp_read_chunk_size", 1 << 20},
    {"grpc.experimental.tcp_min_read_chunk_size", 1 << 20},
    {"grpc.experimental.tcp_max_read_chunk_size", 4 << 20},
    {"grpc.experimental.tcp_tx_zerocopy_enabled", 0},
}};

}  // namespace graft::rpc
