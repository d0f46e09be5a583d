#include "rocks/watermark.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"

namespace graft::rocks {
namespace {

// A slot stands in a sector of its own, so that writing one cannot tear the other.
constexpr off_t kSlotBytes = 4096;
constexpr uint64_t kMagic = 0x314b524d54465247;  // "GRFTMRK1", little-endian

struct Slot {
  uint64_t magic = kMagic;
  uint64_t sequence = 0;  // the larger of two whole slots is the newer
  uint64_t store_id = 0;
  uint64_t revision = 0;
  uint64_t crc = 0;  // of what stands before

  uint64_t Crc() const {
    return Crc32c(0, absl::string_view(reinterpret_cast<const char*>(this), offsetof(Slot, crc)));
  }
};

}  // namespace

absl::StatusOr<WatermarkFile> WatermarkFile::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("open watermark ", path));
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", path));
  WatermarkFile file(std::move(fd), path);
  bool whole = false;
  for (int i = 0; i < 2; ++i) {
    Slot slot;
    if (pread(file.fd_.get(), &slot, sizeof(slot), i * kSlotBytes) != sizeof(slot)) continue;
    if (slot.magic != kMagic || slot.crc != slot.Crc()) continue;
    whole = true;
    if (slot.sequence <= file.sequence_) continue;
    file.sequence_ = slot.sequence;
    file.current_ = {slot.store_id, slot.revision};
  }
  if (info.st_size != 0 && !whole) {
    return absl::DataLossError(absl::StrCat(
        "watermark ", path, " is damaged: it cannot be told whether the store is complete"));
  }
  if (info.st_size == 0) {
    const size_t slash = path.rfind('/');
    GRAFT_RETURN_IF_ERROR(SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash)));
  }
  return file;
}

absl::Status WatermarkFile::Write(const Watermark& watermark) {
  Slot slot;
  slot.sequence = sequence_ + 1;
  slot.store_id = watermark.store_id;
  slot.revision = watermark.revision;
  slot.crc = slot.Crc();
  const off_t offset = static_cast<off_t>(slot.sequence % 2) * kSlotBytes;
  const ssize_t written = pwrite(fd_.get(), &slot, sizeof(slot), offset);
  if (written != sizeof(slot)) {
    return ErrnoStatus(written < 0 ? errno : ENOSPC, absl::StrCat("write watermark ", path_));
  }
  if (fdatasync(fd_.get()) != 0) return ErrnoStatus(errno, absl::StrCat("sync watermark ", path_));
  sequence_ = slot.sequence;
  current_ = watermark;
  return absl::OkStatus();
}

}  // namespace graft::rocks
