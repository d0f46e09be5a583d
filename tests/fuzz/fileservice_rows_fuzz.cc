// Rows and manifests of any bytes are refused or are what they say when they are written again.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "fileservice/cas/chunk_row.h"
#include "fileservice/cas/codec.h"
#include "fileservice/catalog/backup.h"
#include "fileservice/catalog/records.h"

namespace {

template <typename Row>
void Check(absl::string_view bytes) {
  const auto row = Row::Decode(bytes);
  if (!row.ok()) return;
  const auto again = Row::Decode(row->Encode());
  GRAFT_CHECK_OK(again.status());
  GRAFT_CHECK(again->Encode() == row->Encode());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace graft::fileservice;
  if (size == 0) return 0;
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 11) {
    case 0:
      Check<ChunkRow>(bytes);
      break;
    case 1:
      Check<PackRow>(bytes);
      break;
    case 2:
      Check<FilesetRecord>(bytes);
      break;
    case 3:
      Check<VersionRecord>(bytes);
      break;
    case 4:
      Check<Entry>(bytes);
      break;
    case 5:
      Check<FilePage>(bytes);
      break;
    case 6:
      Check<SessionRecord>(bytes);
      break;
    case 7:
      Check<FilesetState>(bytes);
      break;
    case 8:
      VersionBackup::Decode(bytes).status().IgnoreError();
      break;
    case 9:
      DecodeFilePages(bytes).status().IgnoreError();
      break;
    default: {
      std::string out(4096, '\0');
      DecodeDelta(bytes, bytes, out.size(), out.data()).IgnoreError();
      Decompress(bytes, out.size(), out.data()).IgnoreError();
    }
  }
  return 0;
}
