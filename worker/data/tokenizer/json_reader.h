// Reads JSON from its text piece by piece, for the large members of a tokenizer.json: a vocabulary
// and its merges are half a million strings that need no tree of values.
//
// Every call but Peek() answers false where the text is not what was asked for; the reader is then
// of no further use, and Json::Parse() of the same text says what is wrong and where. Strings are
// views into the text, or into the reader where they hold an escape, and live as long as both.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::data {

class JsonReader {
 public:
  explicit JsonReader(absl::string_view text) : at_(text.data()), end_(text.data() + text.size()) {}

  size_t bytes_left() const { return static_cast<size_t>(end_ - at_); }
  // The next character that is no white space, not taken; 0 at the end.
  char Peek();
  // Takes the next character that is no white space if it is `c`.
  bool Take(char c);
  bool ReadString(absl::string_view& out);
  // An integer that fits.
  bool ReadInt(int64_t& out);
  // Steps over a value, whose text is `raw`. Its inside is not checked.
  bool Skip(absl::string_view& raw);

  // Walks the members of an object or the elements of an array: `read` takes each value.
  template <typename Read>
  bool Members(Read read) {
    if (!Take('{')) return false;
    if (Take('}')) return true;
    do {
      absl::string_view key;
      if (Peek() != '"' || !ReadString(key) || !Take(':') || !read(key)) return false;
    } while (Take(','));
    return Take('}');
  }
  template <typename Read>
  bool Elements(Read read) {
    if (!Take('[')) return false;
    if (Take(']')) return true;
    do {
      if (!read()) return false;
    } while (Take(','));
    return Take(']');
  }

 private:
  static constexpr size_t kBlockBytes = 64 << 10;
  // The place behind the string that begins at `at`, or nullptr; `escaped` says whether it holds a
  // backslash.
  const char* StringEnd(const char* at, bool& escaped) const;
  absl::string_view Keep(absl::string_view text);

  const char* at_;
  const char* end_;
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t left_ = 0;  // in the last block
};

}  // namespace graft::data
