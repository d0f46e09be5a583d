// The methods of strings. They keep the origin of every byte.
#pragma once

#include "absl/types/span.h"
#include "worker/data/chat/jinja_calls.h"

namespace graft::jinja {

// Sorted by name.
absl::Span<const MethodEntry> StringMethods();

// jinja_split.cc
Value StrSplit(Interpreter& in, const Value& self, const Args& args);
Value StrRsplit(Interpreter& in, const Value& self, const Args& args);
Value StrSplitlines(Interpreter& in, const Value& self, const Args& args);
Value StrPartition(Interpreter& in, const Value& self, const Args& args);
Value StrRpartition(Interpreter& in, const Value& self, const Args& args);

}  // namespace graft::jinja
