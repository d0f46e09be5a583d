// A file of any bytes is cut into chunks that are not too large and give the file again, whatever
// its safetensors header says.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "fileservice/cas/chunker.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace graft::fileservice;
  const absl::string_view file(reinterpret_cast<const char*>(data), size);
  const int64_t bytes = static_cast<int64_t>(size);
  for (const TensorExtent& tensor : ParseSafetensorsHead(file, bytes)) {
    GRAFT_CHECK(tensor.begin >= 8 && tensor.begin <= tensor.end && tensor.end <= bytes);
  }
  for (ChunkProfile profile :
       {ChunkProfile::kContent, ChunkProfile::kText, ChunkProfile::kSafetensors}) {
    const auto chunker = MakeChunker(&profile, file, bytes);
    for (absl::string_view rest = file; !rest.empty();) {
      const absl::string_view window = rest.substr(0, chunker->max_bytes());
      const size_t cut = chunker->Next(window);
      GRAFT_CHECK(cut > 0 && cut <= window.size() && cut <= kMaxChunkBytes);
      rest.remove_prefix(cut);
    }
  }
  return 0;
}
