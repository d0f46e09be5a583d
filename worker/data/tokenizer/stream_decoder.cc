#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/tokenizer/tokenizer.h"
#include "worker/data/tokenizer/tokenizer_impl.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// How much of `bytes` is settled: all but a character that has begun and may still be completed.
size_t SettledPrefix(absl::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    at += ValidUtf8Prefix(bytes.substr(at));
    if (at == bytes.size()) break;
    const absl::string_view rest = bytes.substr(at);
    size_t length = 0;
    ReadUtf8Unit(rest, length);
    const auto lead = static_cast<uint8_t>(rest[0]);
    const bool can_go_on = lead >= 0xc2 && lead <= 0xf4 && length == rest.size();
    if (can_go_on) break;
    at += length;
  }
  return at;
}

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";

}  // namespace

struct StreamDecoder::State {
  const Tokenizer::Impl* tokenizer;
  DecodeOptions options;
  bool byte_level;

  std::string bytes;                // byte level: what is not settled
  std::vector<std::string> window;  // else: the last tokens given out, then those held back
  size_t given = 0;                 // tokens of the window that were given out
  std::string given_text;           // what they decode to

  std::string AddBytes(const std::string& token) {
    std::string token_bytes;
    bytes.append(BytesOfToken(token, token_bytes) ? token_bytes : token);
    const size_t settled = SettledPrefix(bytes);
    std::string out = ToValidUtf8(absl::string_view(bytes).substr(0, settled));
    bytes.erase(0, settled);
    return out;
  }

  // The text of the window behind what was given out.
  std::string Rest(const std::string& text) const {
    const size_t limit = std::min(text.size(), given_text.size());
    size_t same = 0;
    while (same < limit && text[same] == given_text[same]) ++same;
    while (same < text.size() && same > 0 && IsUtf8Continuation(text[same])) --same;
    return text.substr(same);
  }

  std::string AddToken(std::string token) {
    window.push_back(std::move(token));
    const std::string text = tokenizer->Join(window);
    const bool open = absl::EndsWith(text, kReplacement) && window.back() != kReplacement;
    if (open) return "";
    std::string out = Rest(text);
    if (text.size() <= given_text.size()) return out;
    window.erase(window.begin(), window.begin() + static_cast<ptrdiff_t>(given));
    given = window.size();
    given_text = tokenizer->Join(window);
    return out;
  }
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : state_(std::make_unique<State>()) {
  state_->tokenizer = tokenizer.impl_.get();
  state_->options = options;
  state_->byte_level = state_->tokenizer->decoder != nullptr &&
                       state_->tokenizer->decoder->reach() == Decoder::Reach::kBytes;
}

StreamDecoder::~StreamDecoder() = default;
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;

std::string StreamDecoder::Add(int32_t id) {
  std::string token;
  if (!state_->tokenizer->DecodedToken(id, state_->options, token)) return "";
  return state_->byte_level ? state_->AddBytes(token) : state_->AddToken(std::move(token));
}

std::string StreamDecoder::Finish() {
  std::string out = state_->byte_level ? ToValidUtf8(state_->bytes)
                                       : state_->Rest(state_->tokenizer->Join(state_->window));
  state_->bytes.clear();
  state_->window.clear();
  state_->given = 0;
  state_->given_text.clear();
  return out;
}

}  // namespace graft::data
