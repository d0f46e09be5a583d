// Scanners written by hand for the regular expressions that well-known tokenizers split by. Each
// finds exactly the matches of its expression, many times as fast as the general engine.
#pragma once

#include <memory>

#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/splitter.h"

namespace graft::data {

// What ByteLevel splits by.
constexpr absl::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The scanner for an expression, recognised by its text; nullptr where there is none.
std::unique_ptr<Finder> MakeKnownPatternFinder(absl::string_view pattern);

}  // namespace graft::data
