#include "client/cli/transfer_progress.h"

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace graft::cli {

fileservice::ProgressCallback TransferProgress::callback() {
  return [this](const fileservice::Progress& progress) {
    if (!terminal_.is_terminal) return true;
    std::string detail =
        absl::StrCat(FormatBytes(progress.done_bytes), " of ", FormatBytes(progress.total_bytes),
                     "  ", FormatBytes(static_cast<int64_t>(progress.bytes_per_second)), "/s");
    if (progress.eta < absl::Hours(100))
      absl::StrAppend(&detail, "  ", HumanDuration(progress.eta), " left");
    const std::string line =
        RenderProgress(terminal_, {.label = label_,
                                   .done = static_cast<double>(progress.done_bytes),
                                   .total = static_cast<double>(progress.total_bytes),
                                   .detail = detail});
    fprintf(stderr, "\r\x1b[K%s", line.c_str());
    drawn_ = true;
    return true;
  };
}

void TransferProgress::Finish(const fileservice::Progress& totals) {
  if (drawn_) fprintf(stderr, "\r\x1b[K");
  std::string line =
      absl::StrCat(label_, ": ", totals.total_files, " files, ", FormatBytes(totals.total_bytes));
  if (totals.saved_bytes > 0) {
    absl::StrAppend(&line, ", ", FormatBytes(totals.saved_bytes), " of it were there already");
  }
  fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace graft::cli
