// The functions of the environment.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/data/chat/jinja_calls.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {
namespace {

// jinja2's sandbox refuses longer ranges.
constexpr int64_t kMaxRange = 100'000;

Value CallRange(Interpreter& in, const Args& args) {
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = args.positional.size();
  if (count < 1 || count > 3) return in.Fail("range expects 1 to 3 arguments");
  for (size_t i = 0; i < count; ++i) {
    const Value& value = args.positional[i];
    if (value.is_undefined()) return in.FailUndefined(value);
    if (!value.is_integral()) {
      return in.Fail(absl::StrCat("'", TypeName(value), "' object cannot be read as an integer"));
    }
    bounds[count == 1 ? 1 : i] = value.as_int();
  }
  const auto [start, stop, step] = bounds;
  if (step == 0) return in.Fail("range() arg 3 must not be zero");
  const Value out = NewList(in.arena(), Kind::kRange);
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (out.list().size == kMaxRange) {
      return in.FailWith(
          absl::StatusCode::kResourceExhausted,
          absl::StrCat("Range too big. The sandbox blocks ranges larger than ", kMaxRange, "."));
    }
    out.list().Push(in.arena(), Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return out;
}

Value MakeDict(Interpreter& in, const Args& args) {
  const Value dict = NewDict(in.arena());
  if (args.positional.size() > 1) return in.Fail("dict expected at most 1 argument");
  if (!args.positional.empty()) {
    const Value& from = args.positional[0];
    if (from.is_dict()) {
      for (const Dict::Entry& entry : from.dict()) {
        dict.dict().Set(in.arena(), entry.key, entry.value);
      }
    } else {
      const List* pairs = in.Items(from);
      if (pairs == nullptr) return Value();
      for (const Value& pair : *pairs) {
        const List* two = in.Items(pair);
        if (two == nullptr) return Value();
        if (two->size != 2) return in.Fail("dict() needs pairs");
        dict.dict().Set(in.arena(), two->items[0], two->items[1]);
      }
    }
  }
  for (const auto& [name, value] : args.named) {
    dict.dict().Set(in.arena(), Value::String(name), value);
  }
  return dict;
}

Value MakeNamespace(Interpreter& in, const Args& args) {
  const Value dict = MakeDict(in, args);
  if (in.failed()) return Value();
  for (const Dict::Entry& entry : dict.dict()) {
    if (entry.key.is_string() && absl::StartsWith(entry.key.view(), "_")) {
      return in.Fail(absl::StrCat(
          "chat templates cannot store underscore-prefixed attributes on a namespace, but got '",
          entry.key.view(), "'"));
    }
  }
  return Value::Object(Kind::kNamespace, &dict.dict());
}

Value RaiseException(Interpreter& in, const Args& args) {
  if (args.count() != 1) return in.Fail("raise_exception() takes one message");
  const Value& message = args.positional.empty() ? args.named[0].second : args.positional[0];
  return in.Fail(in.ToStr(message).view());
}

constexpr const char* kWeekdays[] = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                     "Thursday", "Friday", "Saturday"};
constexpr const char* kMonths[] = {"January",   "February", "March",    "April",
                                   "May",       "June",     "July",     "August",
                                   "September", "October",  "November", "December"};

// One directive of strftime in the C locale; false where it is unknown.
bool AppendTimePart(char directive, bool unpadded, const absl::CivilSecond& t, absl::Time now,
                    Text& out) {
  const int weekday = (static_cast<int>(absl::GetWeekday(t)) + 1) % 7;
  const auto number = [&](int64_t value, int width) {
    out.Append(unpadded ? std::to_string(value) : absl::StrFormat("%0*d", width, value));
  };
  switch (directive) {
    case 'Y':
      return number(t.year(), 4), true;
    case 'm':
      return number(t.month(), 2), true;
    case 'd':
      return number(t.day(), 2), true;
    case 'e':
      return out.Append(absl::StrFormat("%2d", t.day())), true;
    case 'y':
      return number(t.year() % 100, 2), true;
    case 'H':
      return number(t.hour(), 2), true;
    case 'I':
      return number(t.hour() % 12 == 0 ? 12 : t.hour() % 12, 2), true;
    case 'M':
      return number(t.minute(), 2), true;
    case 'S':
      return number(t.second(), 2), true;
    case 'j':
      return number(absl::GetYearDay(t), 3), true;
    case 'f':
      return number(absl::ToUnixMicros(now) % 1'000'000, 6), true;
    case 'p':
      return out.Append(t.hour() < 12 ? "AM" : "PM"), true;
    case 'A':
      return out.Append(kWeekdays[weekday]), true;
    case 'a':
      return out.Append(absl::string_view(kWeekdays[weekday], 3)), true;
    case 'B':
      return out.Append(kMonths[t.month() - 1]), true;
    case 'b':
    case 'h':
      return out.Append(absl::string_view(kMonths[t.month() - 1], 3)), true;
    case 'w':
      return number(weekday, 1), true;
    case 'u':
      return number(weekday == 0 ? 7 : weekday, 1), true;
    case 'F':
      return out.Append(absl::StrFormat("%04d-%02d-%02d", t.year(), t.month(), t.day())), true;
    case 'T':
    case 'X':
      return out.Append(absl::StrFormat("%02d:%02d:%02d", t.hour(), t.minute(), t.second())), true;
    case 'D':
    case 'x':
      return out.Append(absl::StrFormat("%02d/%02d/%02d", t.month(), t.day(), t.year() % 100)),
             true;
    case 'Z':
    case 'z':
      return true;  // Python prints nothing for a time without a zone
    case 'n':
      return out.Append('\n'), true;
    case 't':
      return out.Append('\t'), true;
    case '%':
      return out.Append('%'), true;
    default:
      return false;
  }
}

Value StrftimeNow(Interpreter& in, const Args& args) {
  if (args.count() != 1) return in.Fail("strftime_now() takes one format");
  const Value& format = args.positional.empty() ? args.named[0].second : args.positional[0];
  if (!format.is_string()) return in.Fail("strftime_now() takes a string");
  const absl::CivilSecond t = absl::ToCivilSecond(in.now(), absl::UTCTimeZone());
  const absl::string_view text = format.view();
  Text out(in.arena());
  for (size_t pos = 0; pos < text.size(); ++pos) {
    if (text[pos] != '%' || pos + 1 == text.size()) {
      out.Append(text[pos]);
      continue;
    }
    const bool unpadded = text[pos + 1] == '-' && pos + 2 < text.size();
    pos += unpadded ? 2 : 1;
    if (!AppendTimePart(text[pos], unpadded, t, in.now(), out)) {
      return in.FailWith(absl::StatusCode::kUnimplemented,
                         absl::StrCat("strftime directive %", text.substr(pos, 1)));
    }
  }
  return out.FinishValue();
}

Value MakeJoiner(Interpreter& in, const Args& args) {
  const Value* separator = args.Find(0, "sep");
  auto* joiner = in.arena().New<JoinerState>();
  joiner->separator = separator == nullptr ? NewStr(in.arena(), ", ") : &in.ToStr(*separator);
  return Value::Object(Kind::kJoiner, joiner);
}

Value MakeCycler(Interpreter& in, const Args& args) {
  if (args.positional.empty()) return in.Fail("at least one item has to be provided");
  List& items = NewList(in.arena()).list();
  for (const Value& value : args.positional) items.Push(in.arena(), value);
  auto* cycler = in.arena().New<CyclerState>();
  cycler->items = &items;
  return Value::Object(Kind::kCycler, cycler);
}

constexpr FunctionEntry kFunctions[] = {
    {"range", CallRange},          {"dict", MakeDict},
    {"namespace", MakeNamespace},  {"raise_exception", RaiseException},
    {"strftime_now", StrftimeNow}, {"joiner", MakeJoiner},
    {"cycler", MakeCycler},
};

}  // namespace

absl::Span<const FunctionEntry> Functions() { return kFunctions; }

}  // namespace graft::jinja
