// From "which message wrote which byte" to "what the model has to write".
//
// A turn of the assistant begins where the prompt ends: behind what the template puts after the
// last byte of the messages before it when it is asked for a generation prompt. It ends behind the
// end-of-turn token that follows its last byte. Pure functions; chat_template.cc renders.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/chat/jinja_value.h"

namespace graft::data {

struct TurnContext {
  absl::string_view text;                     // the whole conversation, rendered
  absl::Span<const jinja::Range> ranges;      // origins: 1 + index of the message; in order
  absl::Span<const std::string> end_of_turn;  // tokens
  // What stands behind the last byte of messages [0, count) in the prompt made of them alone;
  // nullopt where the template refuses that prompt.
  std::function<absl::optional<std::string>(int count)> opening;
};

struct AssistantTurn {
  // Usually one; several where the template puts other messages (tool results) inside.
  std::vector<ByteSpan> spans;
  bool ends_with_token = false;  // an end-of-turn token follows the last
};

// The turn of message `message`; no spans where the template wrote none of its bytes.
AssistantTurn FindTurn(const TurnContext& context, int message);

// `eos_token` and the markers in common use.
std::vector<std::string> DefaultEndOfTurn(absl::string_view eos_token);

}  // namespace graft::data
