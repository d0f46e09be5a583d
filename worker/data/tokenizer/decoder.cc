#include "worker/data/tokenizer/decoder.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/tokenizer/json_fields.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kDecoder = "decoder";

class ByteLevelDecoder final : public Decoder {
 public:
  void Apply(std::vector<std::string>& tokens) const override {
    std::string bytes, token_bytes;
    for (const std::string& token : tokens) {
      bytes.append(BytesOfToken(token, token_bytes) ? token_bytes : token);
    }
    tokens.assign(1, ToValidUtf8(bytes));
  }
  Reach reach() const override { return Reach::kBytes; }
};

// The byte of a token like <0x0A>, or -1.
int ByteOfFallback(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const char lower = static_cast<char>(c | 0x20);
    const bool digit = c >= '0' && c <= '9';
    if (!digit && !(lower >= 'a' && lower <= 'f')) return -1;
    value = value * 16 + (digit ? c - '0' : lower - 'a' + 10);
  }
  return value;
}

class ByteFallbackDecoder final : public Decoder {
 public:
  void Apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (IsValidUtf8(bytes)) {
        out.push_back(bytes);
      } else {
        for (size_t i = 0; i < bytes.size(); ++i) out.push_back("\xef\xbf\xbd");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      const int byte = ByteOfFallback(token);
      if (byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
        continue;
      }
      flush();
      out.push_back(std::move(token));
    }
    flush();
    tokens = std::move(out);
  }
};

class FuseDecoder final : public Decoder {
 public:
  void Apply(std::vector<std::string>& tokens) const override {
    std::string joined;
    for (const std::string& token : tokens) joined.append(token);
    tokens.assign(1, std::move(joined));
  }
};

class StripDecoder final : public Decoder {
 public:
  StripDecoder(uint32_t content, int64_t start, int64_t stop) : start_(start), stop_(stop) {
    AppendCodePoint(content, content_);
  }
  void Apply(std::vector<std::string>& tokens) const override {
    for (std::string& token : tokens) {
      absl::string_view rest = token;
      for (int64_t i = 0; i < start_ && absl::ConsumePrefix(&rest, content_); ++i) {
      }
      for (int64_t i = 0; i < stop_ && absl::ConsumeSuffix(&rest, content_); ++i) {
      }
      token = std::string(rest);
    }
  }

 private:
  std::string content_;
  int64_t start_, stop_;
};

class ReplaceDecoder final : public Decoder {
 public:
  ReplaceDecoder(Regex regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}
  void Apply(std::vector<std::string>& tokens) const override {
    std::vector<Match> matches;
    for (std::string& token : tokens) {
      // Tokens are short; where the expression runs into its limit the token stays as it is.
      if (token.empty() || !regex_.FindAll(token, matches).ok()) continue;
      std::string out;
      size_t at = 0;
      for (const Match& match : matches) {
        out.append(token, at, match.begin - at);
        out.append(content_);
        at = match.end;
      }
      out.append(token, at, std::string::npos);
      token = std::move(out);
    }
  }

 private:
  Regex regex_;
  std::string content_;
};

class MetaspaceDecoder final : public Decoder {
 public:
  MetaspaceDecoder(uint32_t replacement, bool drop_first) : drop_first_(drop_first) {
    AppendCodePoint(replacement, replacement_);
  }
  void Apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const absl::string_view space = i == 0 && drop_first_ ? "" : " ";
      tokens[i] = absl::StrReplaceAll(tokens[i], {{replacement_, space}});
    }
  }

 private:
  std::string replacement_;
  bool drop_first_;
};

// Takes back what splitting English into words added.
std::string CleanUp(absl::string_view text) {
  static constexpr std::pair<absl::string_view, absl::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  std::string out(text);
  for (const auto& [from, to] : kRules) out = absl::StrReplaceAll(out, {{from, to}});
  return out;
}

class WordPieceDecoder final : public Decoder {
 public:
  WordPieceDecoder(std::string prefix, bool cleanup)
      : prefix_(std::move(prefix)), cleanup_(cleanup) {}
  void Apply(std::vector<std::string>& tokens) const override {
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i != 0) {
        if (absl::StartsWith(tokens[i], prefix_)) {
          tokens[i].erase(0, prefix_.size());
        } else {
          tokens[i].insert(0, " ");
        }
      }
      if (cleanup_) tokens[i] = CleanUp(tokens[i]);
    }
  }

 private:
  std::string prefix_;
  bool cleanup_;
};

class BpeDecoder final : public Decoder {
 public:
  explicit BpeDecoder(std::string suffix) : suffix_(std::move(suffix)) {}
  void Apply(std::vector<std::string>& tokens) const override {
    if (suffix_.empty()) return;
    for (size_t i = 0; i < tokens.size(); ++i) {
      const absl::string_view space = i + 1 == tokens.size() ? "" : " ";
      tokens[i] = absl::StrReplaceAll(tokens[i], {{suffix_, space}});
    }
  }

 private:
  std::string suffix_;
};

class CtcDecoder final : public Decoder {
 public:
  CtcDecoder(std::string pad, std::string delimiter, bool cleanup)
      : pad_(std::move(pad)), delimiter_(std::move(delimiter)), cleanup_(cleanup) {}
  void Apply(std::vector<std::string>& tokens) const override {
    std::vector<std::string> out;
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && tokens[i] == tokens[i - 1]) continue;
      std::string token = pad_.empty() ? tokens[i] : absl::StrReplaceAll(tokens[i], {{pad_, ""}});
      if (cleanup_) {
        token = CleanUp(token);
        if (!delimiter_.empty()) token = absl::StrReplaceAll(token, {{delimiter_, " "}});
      }
      if (!token.empty()) out.push_back(std::move(token));
    }
    tokens = std::move(out);
  }

 private:
  std::string pad_, delimiter_;
  bool cleanup_;
};

class SequenceDecoder final : public Decoder {
 public:
  explicit SequenceDecoder(std::vector<std::unique_ptr<Decoder>> parts)
      : parts_(std::move(parts)) {}
  void Apply(std::vector<std::string>& tokens) const override {
    for (const auto& part : parts_) part->Apply(tokens);
  }
  Reach reach() const override { return parts_.size() == 1 ? parts_[0]->reach() : Reach::kAll; }

 private:
  std::vector<std::unique_ptr<Decoder>> parts_;
};

absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Json& json, int depth);

absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoders(const Json& json, int depth) {
  GRAFT_ASSIGN_OR_RETURN(auto parts, PartsField(json, kDecoder, "decoders", depth, ParseDecoder));
  return std::make_unique<SequenceDecoder>(std::move(parts));
}

absl::StatusOr<std::unique_ptr<Decoder>> ParseSpaced(const std::string& type, const Json& json) {
  if (type == "Metaspace") {
    GRAFT_ASSIGN_OR_RETURN(const uint32_t replacement, CharField(json, kDecoder, "replacement"));
    GRAFT_ASSIGN_OR_RETURN(const bool prefix, BoolField(json, kDecoder, "add_prefix_space", true));
    const bool never = json.GetString("prepend_scheme", "always") == "never";
    return std::make_unique<MetaspaceDecoder>(replacement, prefix && !never);
  }
  if (type == "WordPiece") {
    GRAFT_ASSIGN_OR_RETURN(std::string prefix, StringField(json, kDecoder, "prefix"));
    GRAFT_ASSIGN_OR_RETURN(const bool cleanup, BoolField(json, kDecoder, "cleanup", true));
    return std::make_unique<WordPieceDecoder>(std::move(prefix), cleanup);
  }
  GRAFT_ASSIGN_OR_RETURN(std::string pad, StringField(json, kDecoder, "pad_token"));
  GRAFT_ASSIGN_OR_RETURN(std::string word, StringField(json, kDecoder, "word_delimiter_token"));
  GRAFT_ASSIGN_OR_RETURN(const bool cleanup, BoolField(json, kDecoder, "cleanup", true));
  return std::make_unique<CtcDecoder>(std::move(pad), std::move(word), cleanup);
}

absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Json& json, int depth) {
  if (depth > kMaxPartDepth) {
    return absl::InvalidArgumentError("tokenizer.json: decoders are nested too deeply");
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string type, TypeField(json, kDecoder));
  if (type == "Sequence") return ParseDecoders(json, depth);
  if (type == "ByteLevel") return std::make_unique<ByteLevelDecoder>();
  if (type == "ByteFallback") return std::make_unique<ByteFallbackDecoder>();
  if (type == "Fuse") return std::make_unique<FuseDecoder>();
  if (type == "Metaspace" || type == "WordPiece" || type == "CTC") return ParseSpaced(type, json);
  if (type == "BPEDecoder") {
    GRAFT_ASSIGN_OR_RETURN(std::string suffix, StringField(json, kDecoder, "suffix"));
    return std::make_unique<BpeDecoder>(std::move(suffix));
  }
  if (type == "Strip") {
    GRAFT_ASSIGN_OR_RETURN(const uint32_t content, CharField(json, kDecoder, "content"));
    GRAFT_ASSIGN_OR_RETURN(const int64_t start, IntField(json, kDecoder, "start", 0, 1 << 30));
    GRAFT_ASSIGN_OR_RETURN(const int64_t stop, IntField(json, kDecoder, "stop", 0, 1 << 30));
    return std::make_unique<StripDecoder>(content, start, stop);
  }
  if (type == "Replace") {
    GRAFT_ASSIGN_OR_RETURN(Regex regex, PatternField(json, kDecoder));
    GRAFT_ASSIGN_OR_RETURN(std::string content, StringField(json, kDecoder, "content"));
    return std::make_unique<ReplaceDecoder>(std::move(regex), std::move(content));
  }
  return absl::UnimplementedError(
      absl::StrCat("tokenizer.json: the decoder '", type, "' is not known"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Decoder>> ParseDecoder(const Json* json) {
  if (json == nullptr || json->is_null()) return std::unique_ptr<Decoder>();
  return ParseDecoder(*json, 0);
}

}  // namespace graft::data
