// A pack of any bytes is read without harm: what is believed of it lies inside of it. A pack of
// sound records that is cut anywhere keeps all before the cut, and one with a damaged byte all
// records but the one around it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/digest.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/cas/pack.h"

namespace {

class Bytes final : public graft::fileservice::ReadableFile {
 public:
  explicit Bytes(absl::string_view bytes) : bytes_(bytes) {}
  absl::Status ReadAt(int64_t offset, size_t size, char* out) const override {
    GRAFT_CHECK(offset >= 0 && static_cast<size_t>(offset) + size <= bytes_.size());
    std::memcpy(out, bytes_.data() + offset, size);
    return absl::OkStatus();
  }
  int64_t size() const override { return static_cast<int64_t>(bytes_.size()); }
  int fd() const override { return -1; }

 private:
  const absl::string_view bytes_;
};

using graft::fileservice::ScannedRecord;

struct Extent {
  int64_t begin;
  int64_t end;
};

// Records of `payloads`' bytes, each with a length from 0 to 255 in front of it.
std::string PackOf(absl::string_view payloads, std::vector<Extent>& records) {
  using namespace graft::fileservice;
  std::string pack = EncodePackHeader(1);
  while (!payloads.empty()) {
    const absl::string_view payload = payloads.substr(1, static_cast<uint8_t>(payloads[0]));
    payloads.remove_prefix(1 + payload.size());
    RecordHeader header;
    header.raw_bytes = header.stored_bytes = static_cast<uint32_t>(payload.size());
    header.payload_crc = graft::Crc32c(0, payload);
    header.pack = 1;
    header.id = graft::Sha256::Of(payload);
    const auto begin = static_cast<int64_t>(pack.size());
    pack += header.Encode();
    pack.append(payload.data(), payload.size());
    records.push_back({begin, static_cast<int64_t>(pack.size())});
  }
  return pack;
}

void CheckCut(const std::string& pack, const std::vector<Extent>& records, size_t cut) {
  const Bytes file(absl::string_view(pack).substr(0, cut));
  size_t seen = 0;
  const auto end = graft::fileservice::ScanPack(file, 1, 0, [&](const ScannedRecord& record) {
    GRAFT_CHECK(seen < records.size() && record.end == records[seen].end);
    ++seen;
    return absl::OkStatus();
  });
  size_t whole = 0;
  while (whole < records.size() && records[whole].end <= file.size()) ++whole;
  GRAFT_CHECK(cut < graft::fileservice::kPackHeaderBytes || (end.ok() && seen == whole));
}

void CheckFlip(std::string pack, const std::vector<Extent>& records, size_t at, uint8_t flip) {
  if (flip == 0 || at >= pack.size() || at < graft::fileservice::kPackHeaderBytes) return;
  pack[at] = static_cast<char>(pack[at] ^ flip);
  const Bytes file(pack);
  std::vector<bool> found(records.size(), false);
  GRAFT_CHECK_OK(graft::fileservice::SalvagePack(
      file, 1, [&](const ScannedRecord& record) -> absl::StatusOr<bool> {
        const absl::string_view payload = absl::string_view(pack).substr(
            static_cast<size_t>(record.payload_offset), record.header.stored_bytes);
        if (graft::Sha256::Of(payload) != record.header.id) return false;
        for (size_t i = 0; i < records.size(); ++i) {
          if (records[i].end == record.end) found[i] = true;
        }
        return true;
      }));
  for (size_t i = 0; i < records.size(); ++i) {
    const bool hurt =
        static_cast<int64_t>(at) >= records[i].begin && static_cast<int64_t>(at) < records[i].end;
    GRAFT_CHECK(found[i] != hurt);
  }
}

// Four bytes say where, the rest are payloads.
void CheckTorn(absl::string_view recipe) {
  if (recipe.size() < 4) return;
  const auto byte = [&](size_t i) { return static_cast<size_t>(static_cast<uint8_t>(recipe[i])); };
  std::vector<Extent> records;
  const std::string pack = PackOf(recipe.substr(4), records);
  const size_t at = graft::fileservice::kPackHeaderBytes + (byte(0) << 8 | byte(1));
  CheckCut(pack, records, at);
  CheckCut(pack, records, byte(2) << 4);
  CheckFlip(pack, records, at, static_cast<uint8_t>(byte(3)));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  CheckTorn(absl::string_view(reinterpret_cast<const char*>(data), size));
  // Records alone: the header block is there once, so that the fuzzer need not find its checksum.
  const std::string pack = graft::fileservice::EncodePackHeader(1) +
                           std::string(reinterpret_cast<const char*>(data), size);
  const Bytes file(pack);
  const auto check = [&](const ScannedRecord& record) {
    GRAFT_CHECK(record.end <= file.size() && record.payload_offset <= record.end);
  };
  graft::fileservice::ScanPack(file, 1, 0,
                               [&](const ScannedRecord& record) {
                                 check(record);
                                 return absl::OkStatus();
                               })
      .status()
      .IgnoreError();
  graft::fileservice::SalvagePack(file, 1,
                                  [&](const ScannedRecord& record) -> absl::StatusOr<bool> {
                                    check(record);
                                    return (record.header.raw_bytes & 1) == 0;
                                  })
      .IgnoreError();
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  graft::fileservice::CheckPackHeader(bytes, 1).IgnoreError();
  return 0;
}
