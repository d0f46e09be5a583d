#include "worker/data/chat/jinja_calls.h"

#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

const Value* Args::Find(size_t index, absl::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (key->view() == name) return &value;
  }
  return nullptr;
}

const Str* StrArg(Interpreter& in, const Args& args, size_t index, absl::string_view name) {
  const Value* value = args.Find(index, name);
  if (value == nullptr) {
    in.Fail(absl::StrCat("missing argument '", name, "'"));
    return nullptr;
  }
  if (!value->is_string()) {
    in.Fail(absl::StrCat("argument '", name, "' must be str, not ", TypeName(*value)));
    return nullptr;
  }
  return &value->str();
}

int64_t IntArg(Interpreter& in, const Args& args, size_t index, absl::string_view name,
               int64_t fallback) {
  const Value* value = args.Find(index, name);
  if (value == nullptr) return fallback;
  if (!value->is_integral()) {
    in.Fail(absl::StrCat("argument '", name, "' must be int, not ", TypeName(*value)));
    return fallback;
  }
  return value->as_int();
}

}  // namespace graft::jinja
