#include "worker/data/tokenizer/added_vocabulary.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

bool EndsInWord(absl::string_view text) {
  return !text.empty() && IsWord(CodePointBefore(text, text.size()));
}

bool BeginsWithWord(absl::string_view text) {
  size_t at = 0;
  return !text.empty() && IsWord(NextCodePoint(text, at));
}

// Where the white space at the end of `text` begins.
size_t TrailingSpace(absl::string_view text) {
  size_t end = text.size();
  while (end > 0 && IsWhiteSpace(CodePointBefore(text, end))) {
    do {
      --end;
    } while (IsUtf8Continuation(text[end]));
  }
  return end;
}

size_t LeadingSpace(absl::string_view text) {
  size_t at = 0;
  for (size_t next = 0; at < text.size(); at = next) {
    if (!IsWhiteSpace(NextCodePoint(text, next))) break;
  }
  return at;
}

}  // namespace

void AddedVocabulary::Finder::Build(const std::vector<std::pair<std::string, int32_t>>& tokens) {
  trie_.Build({tokens.begin(), tokens.end()});
  starts_.fill(false);
  for (const auto& [text, id] : tokens) {
    if (!text.empty()) starts_[static_cast<uint8_t>(text[0])] = true;
  }
}

int32_t AddedVocabulary::Finder::Longest(absl::string_view text, size_t& length) const {
  int32_t found = Piece::kNone;
  const ByteTrie::Node* node = &trie_.root();
  for (size_t at = 0; at < text.size(); ++at) {
    node = trie_.Child(*node, text[at]);
    if (node == nullptr) break;
    if (node->id == ByteTrie::kNone) continue;
    found = node->id;
    length = at + 1;
  }
  return found;
}

absl::Status AddedVocabulary::Build(std::vector<AddedToken> tokens, const TokenTable& model_vocab,
                                    const Normalizer* normalizer) {
  absl::flat_hash_map<std::string, int32_t> ids;
  absl::flat_hash_map<int32_t, AddedToken> by_id;
  auto next_id = static_cast<int64_t>(model_vocab.size());
  for (AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    const auto known = ids.find(token.content);
    int64_t id = known != ids.end() ? known->second : model_vocab.Find(token.content);
    if (id < 0) id = next_id++;
    if (id > TokenTable::kMaxId) {
      return absl::InvalidArgumentError("tokenizer.json: added_tokens: too many tokens");
    }
    token.id = static_cast<int32_t>(id);
    ids[token.content] = token.id;
    by_id[token.id] = std::move(token);
  }
  for (auto& [id, token] : by_id) tokens_.push_back(std::move(token));
  std::sort(tokens_.begin(), tokens_.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });

  std::vector<std::pair<std::string, int32_t>> original, normalized;
  decoded_.resize(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    by_content_.emplace_back(token.content, i);
    if (!token.normalized) {
      original.emplace_back(token.content, token.id);
      continue;
    }
    std::string text = token.content;
    if (normalizer != nullptr) {
      const AlignedText source(token.content);
      EditableText editable(source, {0, static_cast<uint32_t>(token.content.size())});
      GRAFT_RETURN_IF_ERROR(normalizer->Apply(editable));
      text = std::string(editable.text());
      if (text != token.content) decoded_[i] = text;
    }
    normalized.emplace_back(std::move(text), token.id);
  }
  std::sort(by_content_.begin(), by_content_.end());
  original_.Build(original);
  normalized_.Build(normalized);
  return absl::OkStatus();
}

void AddedVocabulary::Split(absl::string_view text, const Piece& piece, bool normalized,
                            bool encode_special, std::vector<Piece>& out) const {
  const Finder& trie = normalized ? normalized_ : original_;
  const auto emit = [&](size_t begin, size_t end, int32_t id) {
    if (begin < end) {
      out.push_back({piece.begin + static_cast<uint32_t>(begin),
                     piece.begin + static_cast<uint32_t>(end), id});
    }
  };
  size_t done = 0;  // everything before is in `out`
  for (size_t at = 0; !trie.empty() && at < text.size();) {
    size_t length = 0;
    const int32_t id = trie.Starts(text[at]) ? trie.Longest(text.substr(at), length) : Piece::kNone;
    if (id == Piece::kNone) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + length;
    at = end;
    const AddedToken& token = *Find(id);
    if (encode_special && token.special) continue;
    if (token.single_word &&
        (EndsInWord(text.substr(0, begin)) || BeginsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) begin = std::max(TrailingSpace(text.substr(0, begin)), done);
    if (token.rstrip) end += LeadingSpace(text.substr(end));
    // As in the reference, a token that stands inside of the white space that the one before it
    // took is found all the same.
    emit(done, begin, Piece::kNone);
    emit(begin, end, id);
    done = end;
  }
  emit(done, text.size(), Piece::kNone);
}

const AddedToken* AddedVocabulary::Find(int32_t id) const {
  const auto it =
      std::lower_bound(tokens_.begin(), tokens_.end(), id,
                       [](const AddedToken& a, int32_t wanted) { return a.id < wanted; });
  return it == tokens_.end() || it->id != id ? nullptr : &*it;
}

const AddedToken* AddedVocabulary::FindContent(absl::string_view content) const {
  const auto it =
      std::lower_bound(by_content_.begin(), by_content_.end(), content,
                       [](const auto& a, absl::string_view wanted) { return a.first < wanted; });
  return it == by_content_.end() || it->first != content ? nullptr : &tokens_[it->second];
}

absl::string_view AddedVocabulary::DecodedText(const AddedToken& token) const {
  const std::string& decoded = decoded_[static_cast<size_t>(&token - tokens_.data())];
  return decoded.empty() ? absl::string_view(token.content) : absl::string_view(decoded);
}

}  // namespace graft::data
