#include "worker/data/chat/assistant_spans.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace graft::data {
namespace {

constexpr absl::string_view kEndOfTurn[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<end_of_turn>",
    "<turn|>",
    "<tool_call|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "</s>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|END_OF_TURN_TOKEN|>",
    "<|EOT|>",
    "<|end_of_role|>",
    "<|end_of_turn|>",
    "<|message_end|>",
    "<|eos|>",
    "[|endofturn|]",
    "<|im_sep_end|>",
    "<end_of_utterance>",
    "<eos>",
    "[e~[",
    "<SPECIAL_12>",
};

size_t CommonPrefix(absl::string_view a, absl::string_view b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  return n;
}

// A prompt that went another way after `common` bytes shall not take half a marker with it
// ("<think>" against "<tool_call>"): back to the end of the last whole marker or line.
size_t WholeMarkers(absl::string_view common) {
  size_t end = common.size();
  while (end > 0 && common[end - 1] != '>' && common[end - 1] != ']' &&
         !absl::ascii_isspace(static_cast<unsigned char>(common[end - 1]))) {
    --end;
  }
  const size_t open = common.find_first_of("<[", end);
  return open == absl::string_view::npos ? common.size() : open;
}

// A run of bytes of one message, not interrupted by another's.
struct Run {
  size_t begin, end;
  size_t before = 0;  // where the bytes of the message before it end
  size_t after = 0;   // where the bytes of the next message begin
};

std::vector<Run> RunsOf(const TurnContext& context, jinja::Origin origin) {
  std::vector<Run> runs;
  size_t other_end = 0;
  bool open = false;
  for (const jinja::Range& range : context.ranges) {
    if (range.origin != origin) {
      if (open) runs.back().after = range.begin;
      open = false;
      other_end = range.end;
    } else if (open) {
      runs.back().end = range.end;
    } else {
      runs.push_back({range.begin, range.end, other_end, context.text.size()});
      open = true;
    }
  }
  return runs;
}

size_t BeginOf(const TurnContext& context, const Run& run, int message) {
  const absl::optional<std::string> opening = context.opening(message);
  if (!opening.has_value()) return run.begin;
  const size_t common = CommonPrefix(*opening, context.text.substr(run.before));
  const size_t lead = run.begin - run.before;
  // A prompt may end inside of what the message wrote itself ("<think>").
  if (common == opening->size() && run.before + common < run.end) return run.before + common;
  if (common >= lead) return run.begin;
  return run.before + WholeMarkers(context.text.substr(run.before, common));
}

// The end of the end-of-turn tokens that follow `run`, or its own end.
size_t EndOf(const TurnContext& context, const Run& run, bool& found) {
  const absl::string_view tail = context.text.substr(run.end, run.after - run.end);
  size_t first = absl::string_view::npos;
  size_t end = 0;
  for (const std::string& token : context.end_of_turn) {
    const size_t hit = token.empty() ? absl::string_view::npos : tail.find(token);
    if (hit >= first) continue;
    first = hit;
    end = hit + token.size();
  }
  found = first != absl::string_view::npos;
  if (!found) return run.end;
  for (bool more = true; more;) {
    more = false;
    for (const std::string& token : context.end_of_turn) {
      if (token.empty() || !absl::StartsWith(tail.substr(end), token)) continue;
      end += token.size();
      more = true;
    }
  }
  return run.end + end;
}

}  // namespace

AssistantTurn FindTurn(const TurnContext& context, int message) {
  AssistantTurn turn;
  for (const Run& run : RunsOf(context, static_cast<jinja::Origin>(message) + 1)) {
    // Only the first begins behind a prompt.
    const size_t begin = turn.spans.empty() ? BeginOf(context, run, message) : run.begin;
    turn.spans.push_back({begin, EndOf(context, run, turn.ends_with_token)});
  }
  return turn;
}

std::vector<std::string> DefaultEndOfTurn(absl::string_view eos_token) {
  std::vector<std::string> tokens(std::begin(kEndOfTurn), std::end(kEndOfTurn));
  if (!eos_token.empty()) tokens.emplace_back(eos_token);
  return tokens;
}

}  // namespace graft::data
