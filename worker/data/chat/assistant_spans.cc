#include "worker/data/chat/assistant_spans.h"

#include <algorithm>

#include "absl/strings/ascii.h"

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

struct Extent {
  size_t begin, end;  // first and past the last byte of the message
  size_t before = 0;  // where the bytes of the messages before it end
  size_t after = 0;   // where the bytes of the next message begin
};

absl::optional<Extent> ExtentOf(const TurnContext& context, jinja::Origin origin) {
  absl::optional<Extent> extent;
  for (const jinja::Range& range : context.ranges) {
    if (range.origin != origin) continue;
    if (!extent.has_value()) extent = Extent{range.begin, range.end};
    extent->end = std::max<size_t>(extent->end, range.end);
  }
  if (!extent.has_value()) return extent;
  extent->after = context.text.size();
  for (const jinja::Range& range : context.ranges) {
    if (range.origin == origin) continue;
    if (range.end <= extent->begin) extent->before = std::max<size_t>(extent->before, range.end);
    if (range.begin >= extent->end) extent->after = std::min<size_t>(extent->after, range.begin);
  }
  return extent;
}

size_t BeginOf(const TurnContext& context, const Extent& extent, int message) {
  const absl::string_view lead = context.text.substr(extent.before, extent.begin - extent.before);
  const absl::optional<std::string> opening = context.opening(message);
  if (!opening.has_value()) return extent.begin;
  const size_t common = CommonPrefix(*opening, lead);
  const size_t taken = common == opening->size() || common == lead.size()
                           ? common
                           : WholeMarkers(lead.substr(0, common));
  return extent.before + taken;
}

}  // namespace

absl::optional<AssistantTurn> FindTurn(const TurnContext& context, int message) {
  const absl::optional<Extent> extent = ExtentOf(context, static_cast<jinja::Origin>(message) + 1);
  if (!extent.has_value()) return absl::nullopt;
  AssistantTurn turn;
  turn.span = {BeginOf(context, *extent, message), extent->end};
  const absl::string_view tail = context.text.substr(extent->end, extent->after - extent->end);
  size_t first = absl::string_view::npos;
  for (const std::string& token : context.end_of_turn) {
    const size_t hit = token.empty() ? absl::string_view::npos : tail.find(token);
    if (hit < first) {
      first = hit;
      turn.span.end = extent->end + hit + token.size();
      turn.ends_with_token = true;
    }
  }
  return turn;
}

std::vector<std::string> DefaultEndOfTurn(absl::string_view eos_token) {
  std::vector<std::string> tokens(std::begin(kEndOfTurn), std::end(kEndOfTurn));
  if (!eos_token.empty()) tokens.emplace_back(eos_token);
  return tokens;
}

}  // namespace graft::data
