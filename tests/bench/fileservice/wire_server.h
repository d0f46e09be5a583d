// The server's side of fileservice_wire_bench: the real services over a store in the folder, and a
// second door with the bare streams: Upload takes messages as the real one does but keeps nothing,
// Download sends from memory.
#pragma once

#include <string>

namespace graft::fileservice {

// Serves FOLDER/file.bin until SIGTERM as workspaces/bench/filesets/in-place (where it lies) and
// .../stored (version 1 in chunks of 4 MiB, version 2 in content-cut ones). Writes its two ports to
// FOLDER/plain, or FOLDER/tls with FOLDER/ca.pem beside it.
int ServeForBench(const std::string& folder, bool tls);

}  // namespace graft::fileservice
