// str.split and its kin: strings cut into pieces.
#include <utility>
#include <vector>

#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"
#include "worker/data/chat/jinja_string_methods.h"

namespace graft::jinja {
namespace {

void PushPiece(Interpreter& in, const Value& list, const Str& text, size_t begin, size_t end) {
  list.list().Push(in.arena(), SubString(in.arena(), text, begin, end));
}

Value SplitWhitespace(Interpreter& in, const Str& text, int64_t limit) {
  const Value list = NewList(in.arena());
  size_t pos = LeadingSpace(text.view());
  while (pos < text.size && in.Charge(1)) {
    if (limit >= 0 && list.list().size == limit) {
      PushPiece(in, list, text, pos, text.size);
      break;
    }
    size_t end = pos;
    while (end < text.size) {
      const CodePoint c = DecodeAt(text.view(), end);
      if (IsSpace(c.value)) break;
      end += c.length;
    }
    PushPiece(in, list, text, pos, end);
    pos = end + LeadingSpace(text.view().substr(end));
  }
  return list;
}

Value RsplitWhitespace(Interpreter& in, const Str& text, int64_t limit) {
  std::vector<std::pair<size_t, size_t>> pieces;
  size_t end = text.size - TrailingSpace(text.view());
  while (end > 0 && in.Charge(1)) {
    if (limit >= 0 && static_cast<int64_t>(pieces.size()) == limit) {
      pieces.emplace_back(0, end);
      break;
    }
    size_t begin = end;
    while (begin > 0) {
      const size_t previous = PreviousChar(text.view(), begin);
      if (IsSpace(DecodeAt(text.view(), previous).value)) break;
      begin = previous;
    }
    pieces.emplace_back(begin, end);
    end = begin - TrailingSpace(text.view().substr(0, begin));
  }
  const Value list = NewList(in.arena());
  for (size_t i = pieces.size(); i-- > 0;) {
    PushPiece(in, list, text, pieces[i].first, pieces[i].second);
  }
  return list;
}

// Bytes of the line break at `pos`, 0 where there is none.
size_t LineBreak(absl::string_view text, size_t pos) {
  const CodePoint c = DecodeAt(text, pos);
  if (c.value == '\r') return pos + 1 < text.size() && text[pos + 1] == '\n' ? 2 : 1;
  const bool breaks = (c.value >= 0x0A && c.value <= 0x0C) ||
                      (c.value >= 0x1C && c.value <= 0x1E) || c.value == 0x85 ||
                      c.value == 0x2028 || c.value == 0x2029;
  return breaks ? c.length : 0;
}

Value PartitionAt(Interpreter& in, const Str& text, size_t hit, size_t length, bool from_right) {
  const Value tuple = NewList(in.arena(), Kind::kTuple);
  const Value empty = NewString(in.arena(), "");
  if (hit == absl::string_view::npos) {
    for (int i = 0; i < 3; ++i) {
      tuple.list().Push(in.arena(), i == (from_right ? 2 : 0) ? Value::String(&text) : empty);
    }
    return tuple;
  }
  PushPiece(in, tuple, text, 0, hit);
  PushPiece(in, tuple, text, hit, hit + length);
  PushPiece(in, tuple, text, hit + length, text.size);
  return tuple;
}
}  // namespace

Value StrSplit(Interpreter& in, const Value& self, const Args& args) {
  const Str& text = self.str();
  const int64_t limit = IntArg(in, args, 1, "maxsplit", -1);
  const Value* sep = args.Find(0, "sep");
  if (in.failed()) return Value();
  if (sep == nullptr || sep->is_none()) return SplitWhitespace(in, text, limit);
  if (!sep->is_string()) return in.Fail("must be str or None as separator of split()");
  if (sep->str().size == 0) return in.Fail("empty separator");
  const Value list = NewList(in.arena());
  size_t pos = 0;
  while (limit < 0 || list.list().size < limit) {
    const size_t hit = text.view().find(sep->view(), pos);
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    PushPiece(in, list, text, pos, hit);
    pos = hit + sep->str().size;
  }
  PushPiece(in, list, text, pos, text.size);
  return list;
}

Value StrRsplit(Interpreter& in, const Value& self, const Args& args) {
  const Str& text = self.str();
  const int64_t limit = IntArg(in, args, 1, "maxsplit", -1);
  const Value* sep = args.Find(0, "sep");
  if (in.failed()) return Value();
  if (sep == nullptr || sep->is_none()) return RsplitWhitespace(in, text, limit);
  if (!sep->is_string()) return in.Fail("must be str or None as separator of rsplit()");
  if (sep->str().size == 0) return in.Fail("empty separator");
  std::vector<std::pair<size_t, size_t>> pieces;
  size_t end = text.size;
  while (limit < 0 || static_cast<int64_t>(pieces.size()) < limit) {
    const size_t hit = text.view().substr(0, end).rfind(sep->view());
    if (hit == absl::string_view::npos || !in.Charge(1)) break;
    pieces.emplace_back(hit + sep->str().size, end);
    end = hit;
  }
  const Value list = NewList(in.arena());
  PushPiece(in, list, text, 0, end);
  for (size_t i = pieces.size(); i-- > 0;) {
    PushPiece(in, list, text, pieces[i].first, pieces[i].second);
  }
  return list;
}

Value StrSplitlines(Interpreter& in, const Value& self, const Args& args) {
  const Value* keep = args.Find(0, "keepends");
  const bool keep_ends = keep != nullptr && Truth(*keep);
  const Str& text = self.str();
  const Value list = NewList(in.arena());
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size && in.Charge(1);) {
    const size_t length = LineBreak(text.view(), pos);
    if (length == 0) {
      pos += DecodeAt(text.view(), pos).length;
      continue;
    }
    PushPiece(in, list, text, begin, keep_ends ? pos + length : pos);
    begin = pos += length;
  }
  if (begin < text.size) PushPiece(in, list, text, begin, text.size);
  return list;
}

Value StrPartition(Interpreter& in, const Value& self, const Args& args) {
  const Str* sep = StrArg(in, args, 0, "sep");
  if (sep == nullptr || sep->size == 0) return in.Fail("empty separator");
  return PartitionAt(in, self.str(), self.view().find(sep->view()), sep->size, false);
}
Value StrRpartition(Interpreter& in, const Value& self, const Args& args) {
  const Str* sep = StrArg(in, args, 0, "sep");
  if (sep == nullptr || sep->size == 0) return in.Fail("empty separator");
  return PartitionAt(in, self.str(), self.view().rfind(sep->view()), sep->size, true);
}

}  // namespace graft::jinja
