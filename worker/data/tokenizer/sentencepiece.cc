#include "worker/data/tokenizer/sentencepiece.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/bpe.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/tokenizer/unigram.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

// One field of a protocol buffer.
struct Field {
  uint32_t number = 0;
  uint32_t wire_type = 0;
  uint64_t value = 0;       // of a varint or a fixed32
  absl::string_view bytes;  // of what is length-delimited
};

bool ReadVarint(absl::string_view& data, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !data.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(data[0]);
    data.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool ReadFixed(absl::string_view& data, size_t size, uint64_t& value) {
  if (data.size() < size) return false;
  value = 0;
  std::memcpy(&value, data.data(), size);
  data.remove_prefix(size);
  return true;
}

absl::Status ReadField(absl::string_view& data, Field& field) {
  uint64_t tag = 0;
  bool ok = ReadVarint(data, tag);
  field = Field();
  field.number = static_cast<uint32_t>(tag >> 3);
  field.wire_type = static_cast<uint32_t>(tag & 7);
  switch (field.wire_type) {
    case 0:
      ok = ok && ReadVarint(data, field.value);
      break;
    case 1:
      ok = ok && ReadFixed(data, 8, field.value);
      break;
    case 2:
      ok = ok && ReadVarint(data, field.value) && field.value <= data.size();
      if (!ok) break;
      field.bytes = data.substr(0, field.value);
      data.remove_prefix(field.value);
      break;
    case 5:
      ok = ok && ReadFixed(data, 4, field.value);
      break;
    default:
      ok = false;
  }
  if (ok) return absl::OkStatus();
  return absl::InvalidArgumentError("the file is no SentencePiece model, or it is cut short");
}

float FloatOf(uint64_t bits) {
  const auto low = static_cast<uint32_t>(bits);
  float value = 0;
  std::memcpy(&value, &low, sizeof(value));
  return value;
}

absl::Status ReadPiece(absl::string_view data, SentencePieceModel& model) {
  SentencePieceModel::Piece piece;
  Field field;
  while (!data.empty()) {
    GRAFT_RETURN_IF_ERROR(ReadField(data, field));
    if (field.number == 1) piece.text = std::string(field.bytes);
    if (field.number == 2) piece.score = FloatOf(field.value);
    if (field.number == 3) piece.type = static_cast<int32_t>(field.value);
  }
  if (!IsValidUtf8(piece.text)) {
    return absl::InvalidArgumentError("the SentencePiece model holds a piece that is not UTF-8");
  }
  model.pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status ReadTrainerSpec(absl::string_view data, SentencePieceModel& model) {
  int32_t bos = 1, eos = 2;
  Field field;
  while (!data.empty()) {
    GRAFT_RETURN_IF_ERROR(ReadField(data, field));
    const auto value = static_cast<int32_t>(field.value);
    if (field.number == 3 && value != 1 && value != 2) {
      return absl::UnimplementedError(
          "the SentencePiece model is of the type word or char; unigram and bpe are supported");
    }
    if (field.number == 3) model.unigram = value == 1;
    if (field.number == 35) model.byte_fallback = field.value != 0;
    if (field.number == 40) model.unk_id = value;
    if (field.number == 41) bos = value;
    if (field.number == 42) eos = value;
  }
  if (bos >= 0) model.bos_id = bos;
  if (eos >= 0) model.eos_id = eos;
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(absl::string_view data, SentencePieceModel& model) {
  Field field;
  while (!data.empty()) {
    GRAFT_RETURN_IF_ERROR(ReadField(data, field));
    if (field.number == 2) model.precompiled_charsmap = std::string(field.bytes);
    if (field.number == 3) model.add_dummy_prefix = field.value != 0;
    if (field.number == 4) model.remove_extra_whitespaces = field.value != 0;
  }
  return absl::OkStatus();
}

Json ReplaceOf(absl::string_view kind, absl::string_view pattern, absl::string_view content) {
  return TypedPart("Replace")
      .Set("pattern", Json::MakeObject().Set(kind, Json(pattern)))
      .Set("content", Json(content));
}

Json UnigramParts(const SentencePieceModel& model) {
  Json::Array normalizers;
  if (!model.precompiled_charsmap.empty()) {
    normalizers.push_back(
        TypedPart("Precompiled")
            .Set("precompiled_charsmap", Json(absl::Base64Escape(model.precompiled_charsmap))));
  }
  if (model.remove_extra_whitespaces) {
    normalizers.push_back(
        TypedPart("Strip").Set("strip_left", Json(false)).Set("strip_right", Json(true)));
    normalizers.push_back(ReplaceOf("Regex", " {2,}", kSpaceMark));
  }
  const Json metaspace =
      TypedPart("Metaspace")
          .Set("replacement", Json(kSpaceMark))
          .Set("prepend_scheme", Json(model.add_dummy_prefix ? "always" : "never"));
  return Json::MakeObject()
      .Set("normalizer", SequencePart("normalizers", std::move(normalizers)))
      .Set("pre_tokenizer", metaspace)
      .Set("decoder", metaspace);
}

Json BpeParts(const SentencePieceModel& model) {
  Json::Array normalizers, decoders;
  if (model.add_dummy_prefix) {
    normalizers.push_back(TypedPart("Prepend").Set("prepend", Json(kSpaceMark)));
  }
  normalizers.push_back(ReplaceOf("String", " ", kSpaceMark));
  decoders.push_back(ReplaceOf("String", kSpaceMark, " "));
  decoders.push_back(TypedPart("ByteFallback"));
  decoders.push_back(TypedPart("Fuse"));
  if (model.add_dummy_prefix) {
    decoders.push_back(
        TypedPart("Strip").Set("content", Json(" ")).Set("start", Json(1)).Set("stop", Json(0)));
  }
  return Json::MakeObject()
      .Set("normalizer", SequencePart("normalizers", std::move(normalizers)))
      .Set("decoder", SequencePart("decoders", std::move(decoders)));
}

// SentencePiece merges any two neighbours whose join is a piece, the best score first. The same as
// merges: every way to cut a piece in two pieces, ordered by score, then as the reference does.
absl::StatusOr<std::unique_ptr<Model>> MakeBpe(const SentencePieceModel& model) {
  TokenTable vocab;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    GRAFT_RETURN_IF_ERROR(vocab.Add(model.pieces[id].text, static_cast<int64_t>(id)));
  }
  struct Candidate {
    absl::string_view left, right;
    float score;
    int32_t left_id, right_id;
    size_t left_chars, right_chars;
  };
  std::vector<Candidate> candidates;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    const absl::string_view text = piece.text;
    const size_t first = candidates.size();
    for (size_t at = 1; at < text.size(); ++at) {
      if (IsUtf8Continuation(text[at])) continue;
      const absl::string_view left = text.substr(0, at), right = text.substr(at);
      const int32_t left_id = vocab.Find(left), right_id = vocab.Find(right);
      if (left_id < 0 || right_id < 0) continue;
      candidates.push_back({left, right, piece.score, left_id, right_id, CountCodePoints(left),
                            CountCodePoints(right)});
    }
    std::sort(candidates.begin() + static_cast<ptrdiff_t>(first), candidates.end(),
              [](const Candidate& a, const Candidate& b) {
                return std::make_pair(a.left_id, a.right_id) <
                       std::make_pair(b.left_id, b.right_id);
              });
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     if (a.score != b.score) return a.score > b.score;
                     if (a.left_chars != b.left_chars) return a.left_chars > b.left_chars;
                     return a.right_chars > b.right_chars;
                   });
  std::vector<BpeModel::Merge> merges;
  merges.reserve(candidates.size());
  for (const Candidate& candidate : candidates) {
    merges.emplace_back(candidate.left, candidate.right);
  }
  BpeOptions options;
  options.fuse_unk = true;
  options.byte_fallback = model.byte_fallback;
  options.unk_token = model.pieces[static_cast<size_t>(model.unk_id)].text;
  return BpeModel::Create(std::move(vocab), merges, std::move(options), false);
}

}  // namespace

absl::StatusOr<SentencePieceModel> ParseSentencePiece(absl::string_view bytes) {
  SentencePieceModel model;
  Field field;
  while (!bytes.empty()) {
    GRAFT_RETURN_IF_ERROR(ReadField(bytes, field));
    if (field.wire_type != 2) continue;
    if (field.number == 1) GRAFT_RETURN_IF_ERROR(ReadPiece(field.bytes, model));
    if (field.number == 2) GRAFT_RETURN_IF_ERROR(ReadTrainerSpec(field.bytes, model));
    if (field.number == 3) GRAFT_RETURN_IF_ERROR(ReadNormalizerSpec(field.bytes, model));
  }
  if (model.pieces.empty()) {
    return absl::InvalidArgumentError("the SentencePiece model holds no pieces");
  }
  const auto count = static_cast<int64_t>(model.pieces.size());
  if (model.bos_id && *model.bos_id >= count) model.bos_id.reset();
  if (model.eos_id && *model.eos_id >= count) model.eos_id.reset();
  if (model.unk_id < 0 || model.unk_id >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("the SentencePiece model's unknown token ", model.unk_id, " is no piece"));
  }
  return model;
}

absl::StatusOr<Json> SentencePieceParts(const SentencePieceModel& model) {
  return model.unigram ? UnigramParts(model) : BpeParts(model);
}

absl::StatusOr<std::unique_ptr<Model>> MakeSentencePieceModel(const SentencePieceModel& model) {
  if (!model.unigram) return MakeBpe(model);
  std::vector<std::pair<std::string, double>> vocab;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    vocab.emplace_back(piece.text, piece.score);
  }
  return UnigramModel::Create(std::move(vocab), model.unk_id, model.byte_fallback);
}

}  // namespace graft::data
