#include "worker/data/chat/jinja_filters.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

bool TruthArg(const Args& args, size_t index, absl::string_view name, bool fallback) {
  const Value* value = args.Find(index, name);
  return value == nullptr ? fallback : Truth(*value);
}

AttributePath::AttributePath(Interpreter& in, const Value* attribute, const Value* fallback)
    : in_(in), fallback_(fallback) {
  if (attribute == nullptr || attribute->is_none()) return;
  if (!attribute->is_string()) {
    parts_.push_back(*attribute);
    return;
  }
  for (const absl::string_view part : absl::StrSplit(attribute->view(), '.')) {
    int64_t index;
    const bool digits = !part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
    parts_.push_back(digits && absl::SimpleAtoi(part, &index) ? Value::Int(index)
                                                              : NewString(in.arena(), part));
  }
}

Value AttributePath::Get(Value item) const {
  for (const Value& part : parts_) {
    item = in_.Item(item, part);
    if (in_.failed()) return Value();
    if (item.is_undefined() && fallback_ != nullptr && !fallback_->is_none()) item = *fallback_;
  }
  return item;
}

namespace {

Value FilterDefault(Interpreter& in, const Value& self, const Args& args) {
  const bool boolean = TruthArg(args, 1, "boolean");
  if (!self.is_undefined() && !(boolean && !Truth(self))) return self;
  const Value* fallback = args.Find(0, "default_value");
  return fallback == nullptr ? NewString(in.arena(), "") : *fallback;
}

Value FilterAttr(Interpreter& in, const Value& self, const Args& args) {
  if (args.positional.empty() || !args.positional[0].is_string()) {
    return in.Fail("attr needs a name");
  }
  if (self.is_dict() && FindMethod(self, args.positional[0].view()) == nullptr) {
    return Value::Undefined(&args.positional[0].str());
  }
  return in.Attr(self, args.positional[0].str());
}

constexpr FilterEntry kOtherFilters[] = {
    {"attr", FilterAttr},
    {"d", FilterDefault},
    {"default", FilterDefault},
};

}  // namespace

const FilterEntry* FindFilter(absl::string_view name) {
  for (const absl::Span<const FilterEntry> table :
       {TextFilters(), NumberFilters(), SequenceFilters(), OrderFilters(),
        absl::MakeConstSpan(kOtherFilters)}) {
    if (const FilterEntry* entry = FindByName(table, name)) return entry;
  }
  return nullptr;
}

}  // namespace graft::jinja
