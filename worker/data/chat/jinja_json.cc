// json.dumps.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

namespace {

void AppendUtf16Escape(uint32_t c, Text& out) {
  char buffer[16];
  if (c >= 0x10000) {
    c -= 0x10000;
    std::snprintf(buffer, sizeof(buffer), "\\u%04x\\u%04x", 0xD800 + (c >> 10),
                  0xDC00 + (c & 0x3FF));
  } else {
    std::snprintf(buffer, sizeof(buffer), "\\u%04x", c);
  }
  out.Append(buffer);
}

void AppendJsonString(const Str& text, bool ensure_ascii, Text& out) {
  out.Append('"');
  const absl::string_view view = text.view();
  size_t plain = 0;  // start of the bytes that stand as they are
  const auto flush = [&](size_t end) {
    if (end > plain) out.Append(text, plain, end);
  };
  for (size_t pos = 0; pos < view.size();) {
    const auto byte = static_cast<uint8_t>(view[pos]);
    if (byte >= 0x20 && byte != '"' && byte != '\\' && (byte < 0x80 || !ensure_ascii)) {
      ++pos;
      continue;
    }
    flush(pos);
    const CodePoint c = DecodeAt(view, pos);
    static constexpr absl::string_view kFrom = "\"\\\n\r\t\f\b";
    static constexpr absl::string_view kTo = "\"\\nrtfb";
    const size_t known =
        c.value < 0x80 ? kFrom.find(static_cast<char>(c.value)) : absl::string_view::npos;
    if (known != absl::string_view::npos) {
      const char escape[2] = {'\\', kTo[known]};
      out.Append(absl::string_view(escape, 2));
    } else {
      AppendUtf16Escape(c.value, out);
    }
    pos += c.length;
    plain = pos;
  }
  flush(view.size());
  out.Append('"');
}

void AppendJsonNumber(const Value& value, Text& out) {
  if (value.is_int()) return out.Append(std::to_string(value.as_int()), value.origin());
  const double number = value.as_float();
  if (std::isnan(number)) return out.Append("NaN", value.origin());
  if (std::isinf(number)) {
    return out.Append(number < 0 ? "-Infinity" : "Infinity", value.origin());
  }
  out.Append(FloatRepr(number), value.origin());
}

void NewLine(const JsonStyle& style, int depth, Text& out) {
  if (!style.indented) return;
  out.Append('\n');
  out.Repeat(style.indent, depth);
}

void AppendJsonList(Interpreter& in, const List& list, const JsonStyle& style, Text& out,
                    int depth) {
  if (list.size == 0) return out.Append("[]");
  out.Append('[');
  for (uint32_t i = 0; i < list.size && !in.failed(); ++i) {
    if (i > 0) out.Append(style.item_separator);
    NewLine(style, depth + 1, out);
    AppendJson(in, list.items[i], style, out, depth + 1);
  }
  NewLine(style, depth, out);
  out.Append(']');
}

// A key as json.dumps spells it.
void AppendJsonKey(Interpreter& in, const Value& key, const JsonStyle& style, Text& out) {
  if (key.is_string()) return AppendJsonString(key.str(), style.ensure_ascii, out);
  if (!key.is_number() && !key.is_none()) {
    in.Fail(absl::StrCat("keys must be str, int, float, bool or None, not ", TypeName(key)));
    return;
  }
  out.Append('"');
  AppendJson(in, key, style, out);
  out.Append('"');
}

void AppendJsonDict(Interpreter& in, const Dict& dict, const JsonStyle& style, Text& out,
                    int depth) {
  if (dict.size == 0) return out.Append("{}");
  std::vector<Dict::Entry> entries(dict.begin(), dict.end());
  bool ok = true;
  if (style.sort_keys) {
    std::stable_sort(entries.begin(), entries.end(),
                     [&](const auto& a, const auto& b) { return Compare(a.key, b.key, &ok) < 0; });
    if (!ok) {
      in.Fail("tojson: the keys have no order");
      return;
    }
  }
  out.Append('{');
  for (size_t i = 0; i < entries.size() && !in.failed(); ++i) {
    if (i > 0) out.Append(style.item_separator);
    NewLine(style, depth + 1, out);
    AppendJsonKey(in, entries[i].key, style, out);
    out.Append(style.key_separator);
    AppendJson(in, entries[i].value, style, out, depth + 1);
  }
  NewLine(style, depth, out);
  out.Append('}');
}

}  // namespace

void AppendJson(Interpreter& in, const Value& value, const JsonStyle& style, Text& out, int depth) {
  if (depth > kMaxValueDepth) {
    in.Fail("tojson: nests too deep");
    return;
  }
  if (!in.Charge(1)) return;
  switch (value.kind()) {
    case Kind::kNone:
      return out.Append("null", value.origin());
    case Kind::kBool:
      return out.Append(value.as_bool() ? "true" : "false", value.origin());
    case Kind::kInt:
    case Kind::kFloat:
      return AppendJsonNumber(value, out);
    case Kind::kString:
      return AppendJsonString(value.str(), style.ensure_ascii, out);
    case Kind::kList:
    case Kind::kTuple:
      return AppendJsonList(in, value.list(), style, out, depth);
    case Kind::kDict:
      return AppendJsonDict(in, value.dict(), style, out, depth);
    default:
      in.Fail(absl::StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
  }
}

}  // namespace graft::jinja
