// Runs a tokenizer over many texts, for compare.py and bench.py, which hold its answers against the
// reference's.
//
//   tokenizer_driver KIND FILE < requests > answers
//
// KIND is json, gguf (the metadata as a JSON object, made by the scripts) or sentencepiece. A
// request is a byte of flags (1: add special tokens, 2: special tokens as text, 4: decode, 8:
// stream decode) and a length with that many bytes: a text, or ids as int32. The answer is a count
// and the ids, then as many pairs of offsets; or a length and the decoded text. An error is the
// count -1, then a length and the message. All numbers are little-endian uint32.
//
//   tokenizer_driver KIND FILE write > tokenizer.json
//   tokenizer_driver gguf FILE config > tokenizer_config.json
//
// write the tokenizer as Hugging Face's files.
//
//   tokenizer_driver KIND FILE bench TEXTFILE ROUNDS
//
// prints how long loading and encoding the file's texts (between form feeds) took, in seconds of
// processor time.
#include <cstdio>
#include <cstring>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "base/file.h"
#include "base/json.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace {

using graft::Json;
using graft::data::Encoding;
using graft::data::GgufTokenizerFields;
using graft::data::Tokenizer;
// Processor time of this process, in seconds.
double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

std::vector<std::string> Strings(const Json* json) {
  std::vector<std::string> out;
  if (json == nullptr) return out;
  for (const Json& value : json->as_array()) out.push_back(value.as_string());
  return out;
}

absl::optional<int32_t> OptionalId(const Json& json, const char* key) {
  const Json* value = json.Find(key);
  if (value == nullptr) return absl::nullopt;
  return static_cast<int32_t>(value->as_int());
}

absl::optional<bool> OptionalBool(const Json& json, const char* key) {
  const Json* value = json.Find(key);
  if (value == nullptr) return absl::nullopt;
  return value->as_bool();
}

GgufTokenizerFields FieldsOf(const Json& json) {
  GgufTokenizerFields fields;
  fields.model = json.GetString("model");
  fields.pre = json.GetString("pre");
  fields.tokens = Strings(json.Find("tokens"));
  fields.merges = Strings(json.Find("merges"));
  if (const Json* scores = json.Find("scores")) {
    for (const Json& score : scores->as_array()) {
      fields.scores.push_back(static_cast<float>(score.as_double()));
    }
  }
  if (const Json* types = json.Find("token_type")) {
    for (const Json& type : types->as_array()) {
      fields.token_types.push_back(static_cast<int32_t>(type.as_int()));
    }
  }
  fields.chat_template = json.GetString("chat_template");
  fields.bos_token_id = OptionalId(json, "bos_token_id");
  fields.eos_token_id = OptionalId(json, "eos_token_id");
  fields.unknown_token_id = OptionalId(json, "unknown_token_id");
  fields.separator_token_id = OptionalId(json, "seperator_token_id");
  fields.padding_token_id = OptionalId(json, "padding_token_id");
  fields.cls_token_id = OptionalId(json, "cls_token_id");
  fields.add_bos_token = OptionalBool(json, "add_bos_token");
  fields.add_eos_token = OptionalBool(json, "add_eos_token");
  fields.add_space_prefix = OptionalBool(json, "add_space_prefix");
  return fields;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& kind, const std::string& path) {
  absl::StatusOr<graft::MappedFile> file = graft::MappedFile::Open(path);
  if (!file.ok()) return file.status();
  if (kind == "json") return Tokenizer::FromJson(file->bytes());
  if (kind == "sentencepiece") return Tokenizer::FromSentencePiece(file->bytes());
  absl::StatusOr<Json> json = Json::Parse(file->bytes());
  if (!json.ok()) return json.status();
  return Tokenizer::FromGguf(FieldsOf(*json));
}

int WriteConfig(const std::string& path) {
  const absl::StatusOr<std::string> text = graft::ReadFile(path);
  const absl::StatusOr<Json> json = text.ok() ? Json::Parse(*text) : text.status();
  if (!json.ok()) return std::cerr << json.status() << "\n", 1;
  std::cout << graft::data::GgufTokenizerConfig(FieldsOf(*json)).Dump(2) << "\n";
  return 0;
}

bool ReadNumber(uint32_t& value) { return std::fread(&value, sizeof(value), 1, stdin) == 1; }

void WriteNumber(uint32_t value) { std::fwrite(&value, sizeof(value), 1, stdout); }

void WriteText(absl::string_view text) {
  WriteNumber(static_cast<uint32_t>(text.size()));
  std::fwrite(text.data(), 1, text.size(), stdout);
}

void AnswerDecode(const Tokenizer& tokenizer, const std::string& body, bool stream, bool skip) {
  std::vector<int32_t> ids(body.size() / sizeof(int32_t));
  std::memcpy(ids.data(), body.data(), ids.size() * sizeof(int32_t));
  if (!stream) return WriteText(tokenizer.Decode(ids, {.skip_special_tokens = skip}));
  graft::data::StreamDecoder decoder(tokenizer, {.skip_special_tokens = skip});
  std::string text;
  for (const int32_t id : ids) text += decoder.Add(id);
  WriteText(text + decoder.Finish());
}

void AnswerEncode(const Tokenizer& tokenizer, const std::string& body, uint32_t flags) {
  const absl::StatusOr<Encoding> encoding =
      tokenizer.Encode(body, {.add_special_tokens = (flags & 1) != 0,
                              .encode_special_tokens = (flags & 2) != 0,
                              .offsets = true});
  if (!encoding.ok()) {
    WriteNumber(0xffffffff);
    return WriteText(encoding.status().ToString());
  }
  WriteNumber(static_cast<uint32_t>(encoding->ids.size()));
  for (const int32_t id : encoding->ids) WriteNumber(static_cast<uint32_t>(id));
  for (const auto& [begin, end] : encoding->offsets) {
    WriteNumber(begin);
    WriteNumber(end);
  }
}

void Serve(const Tokenizer& tokenizer) {
  std::string body;
  for (int flags = std::getchar(); flags != EOF; flags = std::getchar()) {
    uint32_t length = 0;
    if (!ReadNumber(length)) return;
    body.resize(length);
    if (std::fread(body.data(), 1, length, stdin) != length) return;
    if ((flags & 12) != 0) {
      AnswerDecode(tokenizer, body, (flags & 8) != 0, (flags & 1) != 0);
    } else {
      AnswerEncode(tokenizer, body, static_cast<uint32_t>(flags));
    }
  }
  std::fflush(stdout);
}

int Bench(const Tokenizer& tokenizer, double load_seconds, const std::string& path, int rounds) {
  absl::StatusOr<graft::MappedFile> file = graft::MappedFile::Open(path);
  if (!file.ok()) return std::cerr << file.status() << "\n", 1;
  std::vector<absl::string_view> texts;  // separated by form feeds
  absl::string_view rest = file->bytes();
  for (size_t end = rest.find('\f'); end != absl::string_view::npos; end = rest.find('\f')) {
    texts.push_back(rest.substr(0, end));
    rest.remove_prefix(end + 1);
  }
  if (!rest.empty()) texts.push_back(rest);
  for (int round = 0; round < rounds; ++round) {
    const double start = ProcessorSeconds();
    size_t tokens = 0;
    Encoding encoding;
    for (const absl::string_view text : texts) {
      const absl::Status status = tokenizer.EncodeInto(text, {.offsets = true}, encoding);
      if (!status.ok()) return std::cerr << status << "\n", 1;
      tokens += encoding.ids.size();
    }
    std::printf("{\"load_s\": %.4f, \"encode_s\": %.4f, \"tokens\": %zu}\n", load_seconds,
                ProcessorSeconds() - start, tokens);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 3 ? argv[3] : "";
  if (argc != 3 && argc != 6 && verb != "write" && verb != "config") {
    std::cerr << "usage: tokenizer_driver json|gguf|sentencepiece FILE "
                 "[write | config | bench TEXTFILE ROUNDS]\n";
    return 2;
  }
  if (verb == "config") return WriteConfig(argv[2]);
  const double start = ProcessorSeconds();
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Load(argv[1], argv[2]);
  const double load_seconds = ProcessorSeconds() - start;
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  if (argc == 3) {
    Serve(**tokenizer);
    return 0;
  }
  if (verb == "write") {
    std::cout << (*tokenizer)->ToJson() << "\n";
    return 0;
  }
  int rounds = 0;
  if (!absl::SimpleAtoi(argv[5], &rounds)) return 2;
  return Bench(**tokenizer, load_seconds, argv[4], rounds);
}
