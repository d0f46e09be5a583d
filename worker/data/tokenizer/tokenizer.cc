#include "worker/data/tokenizer/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/tokenizer_impl.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// Text with its broken units replaced, and where each stretch of it was before.
struct RepairedText {
  std::string text;
  std::vector<std::pair<uint32_t, uint32_t>> broken;  // place here, length before

  void Read(absl::string_view given);
  // Offsets into `text` become offsets into what was given.
  void MapOffsets(Encoding& encoding) const;
};

constexpr uint32_t kReplacementBytes = 3;  // of U+FFFD in UTF-8

void RepairedText::Read(absl::string_view given) {
  while (!given.empty()) {
    const size_t good = ValidUtf8Prefix(given);
    text.append(given.data(), good);
    given.remove_prefix(good);
    if (given.empty()) break;
    size_t length = 0;
    ReadUtf8Unit(given, length);
    broken.emplace_back(static_cast<uint32_t>(text.size()), static_cast<uint32_t>(length));
    AppendCodePoint(kReplacementCharacter, text);
    given.remove_prefix(length);
  }
}

void RepairedText::MapOffsets(Encoding& encoding) const {
  // shifts[i]: how much shorter the given text is up to the end of broken unit i.
  std::vector<uint32_t> ends, shifts;
  uint32_t shift = 0;
  for (const auto& [place, length] : broken) {
    shift += kReplacementBytes - length;
    ends.push_back(place + kReplacementBytes);
    shifts.push_back(shift);
  }
  const auto map = [&](uint32_t at) {
    const auto it = std::upper_bound(ends.begin(), ends.end(), at);
    return it == ends.begin() ? at : at - shifts[static_cast<size_t>(it - ends.begin()) - 1];
  };
  for (auto& [begin, end] : encoding.offsets) {
    begin = map(begin);
    end = map(end);
  }
}

// The share of the text that is one token each is about a quarter.
constexpr size_t kBytesPerToken = 4;

}  // namespace

std::unique_ptr<ModelScratch> ScratchPool::Take() {
  {
    MutexLock lock(mutex_);
    if (!free_.empty()) {
      std::unique_ptr<ModelScratch> scratch = std::move(free_.back());
      free_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<ModelScratch>();
}

void ScratchPool::Give(std::unique_ptr<ModelScratch> scratch) {
  MutexLock lock(mutex_);
  if (free_.size() < kMaxKept) free_.push_back(std::move(scratch));
}

absl::Status Tokenizer::Impl::ReadParts(const Json& json) {
  GRAFT_ASSIGN_OR_RETURN(normalizer, ParseNormalizer(json.Find("normalizer")));
  GRAFT_ASSIGN_OR_RETURN(pre_tokenizer, ParsePreTokenizer(json.Find("pre_tokenizer")));
  GRAFT_ASSIGN_OR_RETURN(post_processor, ParsePostProcessor(json.Find("post_processor")));
  GRAFT_ASSIGN_OR_RETURN(decoder, ParseDecoder(json.Find("decoder")));
  parts = Json::MakeObject();
  for (const absl::string_view part :
       {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    const Json* value = json.Find(part);
    parts.Set(part, value == nullptr ? Json() : *value);
  }
  return absl::OkStatus();
}

// Takes the added tokens out, normalises what is between them and splits it into pieces.
absl::StatusOr<PreTokenized> Tokenizer::Impl::Prepare(absl::string_view text,
                                                      const EncodeOptions& options) const {
  PreTokenized prepared{AlignedText(text), {}};
  const Piece whole = {0, static_cast<uint32_t>(text.size())};
  added.Split(text, whole, false, options.encode_special_tokens, prepared.pieces);
  const bool keeps =
      normalizer == nullptr ||
      std::all_of(prepared.pieces.begin(), prepared.pieces.end(), [&](const Piece& piece) {
        return piece.token != Piece::kNone || normalizer->Keeps(prepared.text.Slice(piece));
      });
  if (!keeps) {
    std::string rewritten;
    std::vector<Origin> origins;
    std::vector<Piece> pieces;
    for (const Piece& piece : prepared.pieces) {
      EditableText editable(prepared.text, piece);
      if (piece.token == Piece::kNone) GRAFT_RETURN_IF_ERROR(normalizer->Apply(editable));
      const auto begin = static_cast<uint32_t>(rewritten.size());
      editable.AppendTo(rewritten, origins);
      if (rewritten.size() >= kMaxTextBytes) {
        return absl::InvalidArgumentError("the text is too long once it has been normalised");
      }
      const auto end = static_cast<uint32_t>(rewritten.size());
      if (begin < end) pieces.push_back({begin, end, piece.token});
    }
    prepared.text = AlignedText(std::move(rewritten), std::move(origins));
    prepared.pieces = std::move(pieces);
  }
  if (added.has_normalized()) {
    std::vector<Piece> pieces;
    for (const Piece& piece : prepared.pieces) {
      if (piece.token != Piece::kNone) {
        pieces.push_back(piece);
        continue;
      }
      added.Split(prepared.text.Slice(piece), piece, true, options.encode_special_tokens, pieces);
    }
    prepared.pieces = std::move(pieces);
  }
  if (pre_tokenizer.splitter != nullptr) {
    GRAFT_RETURN_IF_ERROR(pre_tokenizer.splitter->Apply(prepared));
  }
  if (pre_tokenizer.byte_level && !model->takes_raw_bytes()) ToPrintableBytes(prepared);
  return prepared;
}

absl::Status Tokenizer::Impl::AppendTokens(const PreTokenized& text, const EncodeOptions& options,
                                           ModelScratch& scratch, Encoding& out) const {
  std::vector<TokenSpan> tokens;
  for (const Piece& piece : text.pieces) {
    tokens.clear();
    if (piece.token != Piece::kNone) {
      tokens.push_back({piece.token, piece.end - piece.begin});
    } else {
      GRAFT_RETURN_IF_ERROR(model->Tokenize(text.text.Slice(piece), scratch, tokens));
    }
    uint32_t at = piece.begin;
    for (const TokenSpan& token : tokens) {
      out.ids.push_back(token.id);
      const uint32_t length = token.length & ~TokenSpan::kShared;
      if (options.offsets) {
        const uint32_t last = at + std::max<uint32_t>(length, 1) - 1;
        out.offsets.emplace_back(text.text.OriginOf(at).begin, text.text.OriginOf(last).end);
      }
      if (length == token.length) at += length;
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::EncodeOne(absl::string_view text, const EncodeOptions& options,
                                        Sequence& sequence) const {
  sequence.text = text;
  GRAFT_ASSIGN_OR_RETURN(const PreTokenized prepared, Prepare(text, options));
  sequence.encoding.ids.reserve(text.size() / kBytesPerToken + 4);
  std::unique_ptr<ModelScratch> scratch = scratches.Take();
  const absl::Status status = AppendTokens(prepared, options, *scratch, sequence.encoding);
  scratches.Give(std::move(scratch));
  return status;
}

absl::Status Tokenizer::Impl::PostProcess(std::vector<Sequence> sequences,
                                          const EncodeOptions& options, Encoding& out) const {
  if (post_processor != nullptr && (options.offsets || options.add_special_tokens)) {
    const auto spelling = [this](int32_t id) { return Spelling(id); };
    GRAFT_RETURN_IF_ERROR(post_processor->Apply(sequences, options, spelling));
  }
  out.ids.clear();
  out.offsets.clear();
  if (sequences.size() == 1) {
    out = std::move(sequences[0].encoding);
    return absl::OkStatus();
  }
  for (const Sequence& sequence : sequences) {
    const Encoding& encoding = sequence.encoding;
    out.ids.insert(out.ids.end(), encoding.ids.begin(), encoding.ids.end());
    out.offsets.insert(out.offsets.end(), encoding.offsets.begin(), encoding.offsets.end());
  }
  return absl::OkStatus();
}

absl::string_view Tokenizer::Impl::Spelling(int32_t id) const {
  return added.Find(id) != nullptr ? absl::string_view() : model->vocab().Text(id);
}

bool Tokenizer::Impl::DecodedToken(int32_t id, const DecodeOptions& options,
                                   std::string& token) const {
  if (const AddedToken* found = added.Find(id)) {
    if (found->special && options.skip_special_tokens) return false;
    token = std::string(added.DecodedText(*found));
    return true;
  }
  if (!model->vocab().Has(id)) return false;
  token = std::string(model->vocab().Text(id));
  return true;
}

std::string Tokenizer::Impl::Join(std::vector<std::string> tokens) const {
  if (decoder == nullptr) return absl::StrJoin(tokens, " ");
  if (tokens.empty()) return "";
  decoder->Apply(tokens);
  return absl::StrJoin(tokens, "");
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<Encoding> Tokenizer::Encode(absl::string_view text,
                                           const EncodeOptions& options) const {
  Encoding encoding;
  GRAFT_RETURN_IF_ERROR(EncodeInto(text, options, encoding));
  return encoding;
}

absl::Status Tokenizer::EncodeInto(absl::string_view text, const EncodeOptions& options,
                                   Encoding& out) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a text of ", text.size(),
                                                   " bytes is longer than the ", kMaxTextBytes,
                                                   " that can be encoded at once; split it"));
  }
  const bool valid = IsValidUtf8(text);
  RepairedText repaired;
  if (!valid) repaired.Read(text);
  std::vector<Sequence> sequences(1);
  std::swap(sequences[0].encoding, out);  // for its buffers
  sequences[0].encoding.ids.clear();
  sequences[0].encoding.offsets.clear();
  GRAFT_RETURN_IF_ERROR(impl_->EncodeOne(valid ? text : repaired.text, options, sequences[0]));
  GRAFT_RETURN_IF_ERROR(impl_->PostProcess(std::move(sequences), options, out));
  if (!valid && options.offsets) repaired.MapOffsets(out);
  return absl::OkStatus();
}

absl::StatusOr<Encoding> Tokenizer::EncodePair(absl::string_view first, absl::string_view second,
                                               const EncodeOptions& options) const {
  if (first.size() > kMaxTextBytes || second.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError("a text is too long to be encoded at once; split it");
  }
  if (!IsValidUtf8(first) || !IsValidUtf8(second)) {
    return absl::InvalidArgumentError("a text of the pair is not UTF-8");
  }
  std::vector<Sequence> sequences(2);
  GRAFT_RETURN_IF_ERROR(impl_->EncodeOne(first, options, sequences[0]));
  GRAFT_RETURN_IF_ERROR(impl_->EncodeOne(second, options, sequences[1]));
  Encoding out;
  GRAFT_RETURN_IF_ERROR(impl_->PostProcess(std::move(sequences), options, out));
  return out;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, const DecodeOptions& options) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  std::string token;
  for (const int32_t id : ids) {
    if (impl_->DecodedToken(id, options, token)) tokens.push_back(std::move(token));
  }
  return impl_->Join(std::move(tokens));
}

absl::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  if (const AddedToken* added = impl_->added.FindContent(token)) return added->id;
  const int32_t id = impl_->model->vocab().Find(token);
  if (id < 0) return absl::nullopt;
  return id;
}

absl::optional<absl::string_view> Tokenizer::IdToToken(int32_t id) const {
  if (const AddedToken* added = impl_->added.Find(id)) return absl::string_view(added->content);
  if (!impl_->model->vocab().Has(id)) return absl::nullopt;
  return impl_->model->vocab().Text(id);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = impl_->added.Find(id);
  return added != nullptr && added->special;
}

std::string Tokenizer::ToJson() const {
  Json added = Json::MakeArray();
  for (const AddedToken& token : impl_->added.tokens()) {
    added.Append(Json::MakeObject()
                     .Set("id", token.id)
                     .Set("content", token.content)
                     .Set("single_word", token.single_word)
                     .Set("lstrip", token.lstrip)
                     .Set("rstrip", token.rstrip)
                     .Set("normalized", token.normalized)
                     .Set("special", token.special));
  }
  Json json = Json::MakeObject().Set("version", "1.0").Set("truncation", Json());
  json.Set("padding", Json()).Set("added_tokens", std::move(added));
  for (const auto& [name, part] : impl_->parts.as_object()) json.Set(name, part);
  return json.Set("model", impl_->model->ToJson()).Dump(2);
}

int32_t Tokenizer::vocab_size() const {
  auto size = static_cast<int32_t>(impl_->model->vocab().size());
  for (const AddedToken& token : impl_->added.tokens()) {
    if (impl_->model->vocab().Find(token.content) < 0) ++size;
  }
  return size;
}

int32_t Tokenizer::id_limit() const {
  const auto& added = impl_->added.tokens();
  return std::max(impl_->model->vocab().id_limit(), added.empty() ? 0 : added.back().id + 1);
}

const std::vector<AddedToken>& Tokenizer::added_tokens() const { return impl_->added.tokens(); }

}  // namespace graft::data
