// The answers of a trainer that computes nothing: "(fake)" and the words that it was asked, a word
// a token. Its context holds kFakeContext words.
#pragma once

#include <cstdint>

namespace graft::agent {

inline constexpr int64_t kFakeContext = 2048;

// Requests from standard input, answers to standard output, until the input ends.
int FakeGenerate();

}  // namespace graft::agent
