// The line that shows how far an upload or download is: redrawn on a terminal, silent elsewhere.
#pragma once

#include <string>

#include "client/cli/terminal.h"
#include "fileservice/transfer/client.h"

namespace graft::cli {

class TransferProgress {
 public:
  TransferProgress(const Terminal& terminal, std::string label)
      : terminal_(terminal), label_(std::move(label)) {}
  // To hand to the transfer; this object must outlive it.
  fileservice::ProgressCallback callback();
  // The last word: bytes, and what was saved by what was there already.
  void Finish(const fileservice::Progress& totals);

 private:
  const Terminal& terminal_;
  const std::string label_;
  bool drawn_ = false;
};

}  // namespace graft::cli
