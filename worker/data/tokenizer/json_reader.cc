#include "worker/data/tokenizer/json_reader.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/json.h"

namespace graft::data {

char JsonReader::Peek() {
  while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  return at_ < end_ ? *at_ : '\0';
}

bool JsonReader::Take(char c) {
  if (Peek() != c || at_ == end_) return false;
  ++at_;
  return true;
}

const char* JsonReader::StringEnd(const char* at, bool& escaped) const {
  escaped = false;
  for (++at; at < end_ && *at != '"'; ++at) {
    if (static_cast<uint8_t>(*at) < 0x20) return nullptr;
    if (*at != '\\') continue;
    escaped = true;
    if (++at == end_) return nullptr;
  }
  return at < end_ ? at + 1 : nullptr;
}

absl::string_view JsonReader::Keep(absl::string_view text) {
  if (text.size() > left_) {
    left_ = std::max(kBlockBytes, text.size());
    blocks_.emplace_back(new char[left_]);
    // From its end to its start, so that one number says where the next text goes.
  }
  left_ -= text.size();
  char* const place = blocks_.back().get() + left_;
  std::memcpy(place, text.data(), text.size());
  return absl::string_view(place, text.size());
}

bool JsonReader::ReadString(absl::string_view& out) {
  if (Peek() != '"') return false;
  bool escaped = false;
  const char* const end = StringEnd(at_, escaped);
  if (end == nullptr) return false;
  if (escaped) {
    const auto text = Json::Parse(absl::string_view(at_, static_cast<size_t>(end - at_)));
    if (!text.ok()) return false;
    out = Keep(text->as_string());
  } else {
    out = absl::string_view(at_ + 1, static_cast<size_t>(end - at_) - 2);
  }
  at_ = end;
  return true;
}

bool JsonReader::ReadInt(int64_t& out) {
  Peek();
  const auto [end, error] = std::from_chars(at_, end_, out);
  if (error != std::errc()) return false;
  if (end < end_ && (*end == '.' || *end == 'e' || *end == 'E')) return false;
  at_ = end;
  return true;
}

bool JsonReader::Skip(absl::string_view& raw) {
  Peek();
  const char* const begin = at_;
  int64_t depth = 0;
  do {
    const char c = Peek();
    if (at_ == end_) return false;
    if (c == '"') {
      bool escaped = false;
      at_ = StringEnd(at_, escaped);
      if (at_ == nullptr) return at_ = end_, false;
      continue;
    }
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    if (depth < 0 || (depth == 0 && (c == ',' || c == ':'))) return false;
    ++at_;
    if (depth > 0 || c == '}' || c == ']') continue;
    constexpr absl::string_view kEnds = ",:}] \t\r\n\"";  // of a number or a word
    while (at_ < end_ && kEnds.find(*at_) == absl::string_view::npos) ++at_;
  } while (depth > 0);
  raw = absl::string_view(begin, static_cast<size_t>(at_ - begin));
  return true;
}

}  // namespace graft::data
