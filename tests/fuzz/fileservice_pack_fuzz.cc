// A pack of any bytes is read without harm: what is believed of it lies inside of it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/check.h"
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using graft::fileservice::ScannedRecord;
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
