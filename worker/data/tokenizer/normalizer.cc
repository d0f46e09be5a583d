#include "worker/data/tokenizer/normalizer.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/charsmap.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/unicode/normalize.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// Changes every character by `map`, one for one.
template <typename Map>
void MapChars(EditableText& text, Map map) {
  std::vector<CharChange> changes;
  for (size_t at = 0; at < text.text().size();) {
    changes.push_back({map(NextCodePoint(text.text(), at)), 0});
  }
  text.Transform(changes);
}

class SequenceNormalizer final : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<Normalizer>> parts)
      : parts_(std::move(parts)) {}
  absl::Status Apply(EditableText& text) const override {
    for (const auto& part : parts_) GRAFT_RETURN_IF_ERROR(part->Apply(text));
    return absl::OkStatus();
  }
  bool Keeps(absl::string_view text) const override {
    for (const auto& part : parts_) {
      if (!part->Keeps(text)) return false;
    }
    return true;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> parts_;
};

class FormNormalizer final : public Normalizer {
 public:
  explicit FormNormalizer(NormalForm form) : form_(form) {}
  absl::Status Apply(EditableText& text) const override {
    if (!IsNormalized(text.text(), form_)) text.Transform(Normalize(text.text(), form_));
    return absl::OkStatus();
  }
  bool Keeps(absl::string_view text) const override { return IsNormalized(text, form_); }

 private:
  NormalForm form_;
};

class LowercaseNormalizer final : public Normalizer {
 public:
  absl::Status Apply(EditableText& text) const override {
    text.Transform(LowerCase(text.text()));
    return absl::OkStatus();
  }
};

class StripNormalizer final : public Normalizer {
 public:
  StripNormalizer(bool left, bool right) : left_(left), right_(right) {}
  absl::Status Apply(EditableText& text) const override {
    text.Strip(left_, right_);
    return absl::OkStatus();
  }

 private:
  bool left_, right_;
};

class StripAccentsNormalizer final : public Normalizer {
 public:
  absl::Status Apply(EditableText& text) const override {
    text.Filter([](uint32_t c) { return !HasFlag(c, kCombiningFlag); });
    return absl::OkStatus();
  }
};

// The cleaning rules of the Moses/NMT pre-processing that T5 used.
class NmtNormalizer final : public Normalizer {
 public:
  absl::Status Apply(EditableText& text) const override {
    text.Filter([](uint32_t c) { return !IsDropped(c); });
    MapChars(text, [](uint32_t c) { return IsSpace(c) ? uint32_t{' '} : c; });
    return absl::OkStatus();
  }

 private:
  static bool IsDropped(uint32_t c) {
    return (c >= 0x1 && c <= 0x8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f ||
           c == 0x8f || c == 0x9f;
  }
  static bool IsSpace(uint32_t c) {
    return c == 0x9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
           (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
           c == 0xfeff || c == 0xfffd;
  }
};

class BertNormalizer final : public Normalizer {
 public:
  BertNormalizer(bool clean, bool chinese, bool accents, bool lowercase)
      : clean_(clean), chinese_(chinese), accents_(accents), lowercase_(lowercase) {}

  absl::Status Apply(EditableText& text) const override {
    if (clean_) Clean(text);
    if (chinese_) SpaceChinese(text);
    if (accents_) {
      text.Transform(Normalize(text.text(), NormalForm::kNfd));
      text.Filter([](uint32_t c) { return !HasFlag(c, kNonspacingFlag); });
    }
    if (lowercase_) text.Transform(LowerCase(text.text()));
    return absl::OkStatus();
  }

 private:
  static void Clean(EditableText& text) {
    text.Filter([](uint32_t c) { return c != 0 && c != 0xfffd && !HasFlag(c, kOtherFlag); });
    MapChars(text, [](uint32_t c) { return IsWhiteSpace(c) ? uint32_t{' '} : c; });
  }
  static bool IsChinese(uint32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
  }
  static void SpaceChinese(EditableText& text) {
    std::vector<CharChange> changes;
    for (size_t at = 0; at < text.text().size();) {
      const uint32_t c = NextCodePoint(text.text(), at);
      if (IsChinese(c)) {
        changes.insert(changes.end(), {{' ', 0}, {c, 1}, {' ', 1}});
      } else {
        changes.push_back({c, 0});
      }
    }
    text.Transform(changes);
  }

  bool clean_, chinese_, accents_, lowercase_;
};

class ReplaceNormalizer final : public Normalizer {
 public:
  ReplaceNormalizer(Regex regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}
  absl::Status Apply(EditableText& text) const override {
    std::vector<Match> matches;
    GRAFT_RETURN_IF_ERROR(regex_.FindAll(text.text(), matches));
    text.Replace(matches, content_);
    return absl::OkStatus();
  }

 private:
  Regex regex_;
  std::string content_;
};

class PrependNormalizer final : public Normalizer {
 public:
  explicit PrependNormalizer(std::string prefix) : prefix_(std::move(prefix)) {}
  absl::Status Apply(EditableText& text) const override {
    text.Prepend(prefix_);
    return absl::OkStatus();
  }

 private:
  std::string prefix_;
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  absl::Status Apply(EditableText& text) const override {
    text.ToPrintableBytes();
    return absl::OkStatus();
  }
};

class PrecompiledNormalizer final : public Normalizer {
 public:
  explicit PrecompiledNormalizer(Charsmap map) : map_(std::move(map)) {}
  absl::Status Apply(EditableText& text) const override {
    std::vector<CharChange> changes;
    if (map_.Transform(text.text(), changes)) text.Transform(changes);
    return absl::OkStatus();
  }

 private:
  Charsmap map_;
};

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Json& json, int depth);

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizers(const Json& json, int depth) {
  const Json* parts = json.Find("normalizers");
  if (parts == nullptr || !parts->is_array()) {
    return WrongField("normalizer", "normalizers", "an array", parts);
  }
  std::vector<std::unique_ptr<Normalizer>> parsed;
  for (const Json& part : parts->as_array()) {
    GRAFT_ASSIGN_OR_RETURN(auto normalizer, ParseNormalizer(part, depth + 1));
    parsed.push_back(std::move(normalizer));
  }
  return std::make_unique<SequenceNormalizer>(std::move(parsed));
}

absl::StatusOr<std::unique_ptr<Normalizer>> ParseBert(const Json& json) {
  GRAFT_ASSIGN_OR_RETURN(const bool clean, BoolField(json, "normalizer", "clean_text", true));
  GRAFT_ASSIGN_OR_RETURN(const bool chinese,
                         BoolField(json, "normalizer", "handle_chinese_chars", true));
  GRAFT_ASSIGN_OR_RETURN(const bool lowercase, BoolField(json, "normalizer", "lowercase", true));
  GRAFT_ASSIGN_OR_RETURN(const bool accents,
                         BoolField(json, "normalizer", "strip_accents", lowercase));
  return std::make_unique<BertNormalizer>(clean, chinese, accents, lowercase);
}

absl::StatusOr<std::unique_ptr<Normalizer>> ParsePrecompiled(const Json& json) {
  GRAFT_ASSIGN_OR_RETURN(const std::string encoded,
                         StringField(json, "normalizer", "precompiled_charsmap"));
  std::string bytes;
  if (!absl::Base64Unescape(encoded, &bytes)) {
    return absl::InvalidArgumentError(
        "tokenizer.json: normalizer.precompiled_charsmap is not base64");
  }
  GRAFT_ASSIGN_OR_RETURN(Charsmap map, Charsmap::Parse(bytes));
  return std::make_unique<PrecompiledNormalizer>(std::move(map));
}

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Json& json, int depth) {
  if (depth > kMaxPartDepth) {
    return absl::InvalidArgumentError("tokenizer.json: normalizers are nested too deeply");
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string type, TypeField(json, "normalizer"));
  if (type == "Sequence") return ParseNormalizers(json, depth);
  if (type == "NFC") return std::make_unique<FormNormalizer>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<FormNormalizer>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<FormNormalizer>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<FormNormalizer>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
  if (type == "StripAccents") return std::make_unique<StripAccentsNormalizer>();
  if (type == "Nmt") return std::make_unique<NmtNormalizer>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Precompiled") return ParsePrecompiled(json);
  if (type == "BertNormalizer" || type == "Bert") return ParseBert(json);
  if (type == "Strip") {
    GRAFT_ASSIGN_OR_RETURN(const bool left, BoolField(json, "normalizer", "strip_left", true));
    GRAFT_ASSIGN_OR_RETURN(const bool right, BoolField(json, "normalizer", "strip_right", true));
    return std::make_unique<StripNormalizer>(left, right);
  }
  if (type == "Prepend") {
    GRAFT_ASSIGN_OR_RETURN(std::string prefix, StringField(json, "normalizer", "prepend"));
    return std::make_unique<PrependNormalizer>(std::move(prefix));
  }
  if (type == "Replace") {
    GRAFT_ASSIGN_OR_RETURN(Regex regex, PatternField(json, "normalizer"));
    GRAFT_ASSIGN_OR_RETURN(std::string content, StringField(json, "normalizer", "content"));
    return std::make_unique<ReplaceNormalizer>(std::move(regex), std::move(content));
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: the normalizer '", type, "' is not known"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const Json* json) {
  if (json == nullptr || json->is_null()) return std::unique_ptr<Normalizer>();
  return ParseNormalizer(*json, 0);
}

}  // namespace graft::data
