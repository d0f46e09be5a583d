// What filters and methods of strings share: the origin of every byte is kept.
#include "absl/strings/match.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

Value StripText(Interpreter& in, const Str& text, const Str* chars, bool left, bool right) {
  size_t begin = 0;
  size_t end = text.size;
  const auto stripped = [&](size_t pos) {
    const CodePoint c = DecodeAt(text.view(), pos);
    if (chars == nullptr) return IsSpace(c.value);
    return absl::StrContains(chars->view(), text.view().substr(pos, c.length));
  };
  while (left && begin < end && stripped(begin)) begin += DecodeAt(text.view(), begin).length;
  while (right && begin < end) {
    const size_t last = PreviousChar(text.view(), end);
    if (!stripped(last)) break;
    end = last;
  }
  return SubString(in.arena(), text, begin, end);
}

Value ReplaceText(Interpreter& in, const Str& text, const Str& from, const Str& to, int64_t count) {
  const absl::string_view view = text.view();
  Text out(in.arena());
  size_t pos = 0;
  size_t search = 0;
  while (count != 0) {
    const size_t hit =
        search > view.size() ? absl::string_view::npos : view.find(from.view(), search);
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    out.Append(text, pos, hit);
    out.Append(to);
    pos = hit + from.size;
    // An empty `from` stands before every character and at the end.
    search = from.size > 0 ? pos : hit < view.size() ? hit + DecodeAt(view, hit).length : hit + 1;
    --count;
  }
  out.Append(text, pos, view.size());
  return out.FinishValue();
}

Value MapText(Interpreter& in, const Str& text, std::string (*map)(absl::string_view)) {
  Text out(in.arena());
  if (text.range_count == 0) {
    out.Append(map(text.view()));
    return out.FinishValue();
  }
  uint32_t pos = 0;
  for (uint32_t i = 0; i < text.range_count; ++i) {
    const Range& range = text.ranges[i];
    out.Append(map(text.view().substr(pos, range.begin - pos)));
    out.Append(map(text.view().substr(range.begin, range.end - range.begin)), range.origin);
    pos = range.end;
  }
  out.Append(map(text.view().substr(pos)));
  return out.FinishValue();
}

Value CapitalizeText(Interpreter& in, const Str& text) {
  if (text.size == 0) return Value::String(&text);
  const size_t first = DecodeAt(text.view(), 0).length;
  const Value head = MapText(in, *SubStr(in.arena(), text, 0, first), ToTitle);
  const Value tail = MapText(in, *SubStr(in.arena(), text, first, text.size), ToLower);
  return in.Add(head, tail);
}

void AppendEscaped(const Str& text, Text& out) {
  static constexpr absl::string_view kChars = "&<>'\"";
  static constexpr absl::string_view kEntities[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
  for (size_t i = 0; i < text.size; ++i) {
    const size_t entity = kChars.find(text.data[i]);
    if (entity == absl::string_view::npos) {
      out.Append(text, i, i + 1);
    } else {
      out.Append(kEntities[entity]);
    }
  }
}

}  // namespace graft::jinja
