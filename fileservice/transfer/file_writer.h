// Inside of transfer/: writes a file from its end on, on a thread of its own, in large aligned
// pieces that pass by the page cache where asked for and possible.
//
// The caller hashes and receives while the disk writes. For one thread at a time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"

namespace graft::fileservice {

class FileWriter {
 public:
  // Appends to `fd` from `offset` on; the file is to have `size` bytes, which are set aside.
  // `direct`: with O_DIRECT, from the first block boundary on.
  FileWriter(int fd, int64_t offset, int64_t size, bool direct);
  // Writes what was given; what fails then is not told, and the file is only shorter.
  ~FileWriter();

  absl::Status Append(absl::string_view bytes);
  // Returns once everything is written and on the disk.
  absl::Status Finish();

 private:
  static constexpr size_t kBlockBytes = 4096;
  static constexpr size_t kPieceBytes = 4 << 20;
  static constexpr size_t kMaxWaiting = 3;

  struct Piece {
    char* data;
    size_t size = 0;
    int64_t offset;
    explicit Piece(int64_t offset)
        : data(static_cast<char*>(std::aligned_alloc(kBlockBytes, kPieceBytes))), offset(offset) {}
    ~Piece() { std::free(data); }
  };

  absl::Status HandOver();
  absl::Status Flush();
  void Run();
  absl::Status Write(const Piece& piece);
  void SetDirect(bool direct);

  const int fd_;
  const bool want_direct_;
  bool direct_ = false;  // of the thread
  int64_t at_;
  std::unique_ptr<Piece> piece_;  // that is being filled

  Mutex mu_;
  CondVar changed_;
  std::deque<std::unique_ptr<Piece>> queue_ GRAFT_GUARDED_BY(mu_);
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  absl::Status status_ GRAFT_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace graft::fileservice
