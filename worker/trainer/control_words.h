// The lines on a trainer's standard input: what the agent writes and the trainer reads.
#pragma once

#include "absl/strings/string_view.h"

namespace graft::trainer {

inline constexpr absl::string_view kCheckpointWord = "checkpoint";  // save one, and go on
inline constexpr absl::string_view kPauseWord = "pause";            // save one, then leave
// Write the output of what is learnt so far, and leave as done.
inline constexpr absl::string_view kFinishWord = "finish";
inline constexpr absl::string_view kFinishWithBestWord = "finish best";

}  // namespace graft::trainer
