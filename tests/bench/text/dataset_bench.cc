// How quickly a dataset is read and tokenized.
//
//   dataset_bench make FILE MEGABYTES                    writes chat rows, always the same
//   dataset_bench structure FILE THREADS                 parse, schema, index; and peak memory
//   dataset_bench tokens FILE TOKENIZER TEMPLATE THREADS CACHE_FOLDER
//                                                        template, encode, mask; then from the
//                                                        cache
//
// Each but `make` prints one JSON line.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/token_cache.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace {

using graft::Json;
using graft::data::Dataset;

constexpr char kBos[] = "<|begin_of_text|>";

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double ProcessorSeconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// Peak resident memory of this process in megabytes, the pages of mapped files included.
double PeakMegabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmHWM:", 0) == 0) return std::stod(line.substr(6)) / 1024;
  }
  return -1;
}

// Sentences of common words; the choice is a linear congruence, so that every machine writes the
// same bytes.
class Words {
 public:
  std::string Sentence(int words) {
    static constexpr const char* kWords[] = {"the",
                                             "order",
                                             "was",
                                             "sent",
                                             "to",
                                             "an",
                                             "old",
                                             "address",
                                             "and",
                                             "I",
                                             "cannot",
                                             "log",
                                             "in",
                                             "any",
                                             "more",
                                             "since",
                                             "Monday",
                                             "please",
                                             "refund",
                                             "invoice",
                                             "number",
                                             "12345",
                                             "twice",
                                             "charged",
                                             "when",
                                             "will",
                                             "it",
                                             "arrive",
                                             "\\n",
                                             "caf\u00e9",
                                             "\\\"quoted\\\"",
                                             "\u4f60\u597d",
                                             "(again)",
                                             "50%",
                                             "thanks,",
                                             "Zo\u00eb"};
    std::string out;
    for (int i = 0; i < words; ++i) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      absl::StrAppend(&out, i == 0 ? "" : " ", kWords[(state_ >> 33) % std::size(kWords)]);
    }
    return out;
  }

 private:
  uint64_t state_ = 42;
};

absl::Status Make(const std::string& path, int64_t megabytes) {
  std::ofstream out(path, std::ios::binary);
  Words words;
  for (int64_t written = 0, row = 0; written < megabytes * 1'000'000; ++row) {
    std::string line = absl::StrCat(
        R"({"messages": [{"role": "system", "content": "You answer support tickets."})");
    for (int turn = 0; turn < 1 + row % 3; ++turn) {
      absl::StrAppend(&line, R"(, {"role": "user", "content": ")", words.Sentence(40 + row % 60),
                      R"("}, {"role": "assistant", "content": ")", words.Sentence(60 + row % 90),
                      R"("})");
    }
    absl::StrAppend(&line, "]}\n");
    out << line;
    written += static_cast<int64_t>(line.size());
  }
  return out.good() ? absl::OkStatus() : absl::DataLossError(path + ": cannot be written");
}

absl::Status Structure(const std::string& path, int threads) {
  const double start = Seconds(), busy = ProcessorSeconds();
  GRAFT_ASSIGN_OR_RETURN(const Dataset dataset, Dataset::Open({path}, {.threads = threads}));
  GRAFT_RETURN_IF_ERROR(dataset.status());
  const double bytes = static_cast<double>(dataset.report().bytes);
  std::cout << Json::MakeObject()
                   .Set("mb_per_s", bytes / 1e6 / (Seconds() - start))
                   .Set("mb_per_processor_s", bytes / 1e6 / (ProcessorSeconds() - busy))
                   .Set("peak_mb", PeakMegabytes())
                   .Set("rows", dataset.size())
                   .Dump()
            << "\n";
  return absl::OkStatus();
}

// Seconds that encoding alone takes of one thread, for the texts that the rows are rendered to.
absl::StatusOr<double> EncodeAlone(const Dataset& dataset, const graft::data::Tokenizer& tokenizer,
                                   const graft::data::ChatTemplate& chat, double& megabytes) {
  double spent = 0;
  graft::data::Encoding encoding;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    GRAFT_ASSIGN_OR_RETURN(const graft::data::Row row, dataset.ReadRow(i));
    graft::data::ChatInput input;
    input.messages = &row.messages;
    input.bos_token = kBos;
    GRAFT_ASSIGN_OR_RETURN(const std::string text, chat.RenderText(input));
    const double start = ProcessorSeconds();
    GRAFT_RETURN_IF_ERROR(tokenizer.EncodeInto(text, {.offsets = true}, encoding));
    spent += ProcessorSeconds() - start;
    megabytes += static_cast<double>(text.size()) / 1e6;
  }
  return spent;
}

absl::Status Tokens(char** argv) {
  GRAFT_ASSIGN_OR_RETURN(const Dataset dataset, Dataset::Open({argv[2]}, {}));
  GRAFT_ASSIGN_OR_RETURN(const std::string tokenizer_json, graft::ReadFile(argv[3]));
  GRAFT_ASSIGN_OR_RETURN(const auto tokenizer, graft::data::Tokenizer::FromJson(tokenizer_json));
  GRAFT_ASSIGN_OR_RETURN(const std::string template_text, graft::ReadFile(argv[4]));
  GRAFT_ASSIGN_OR_RETURN(const auto chat, graft::data::ChatTemplate::Compile(template_text));
  graft::data::TokenizeOptions options;
  options.chat = &chat;
  options.bos_token = kBos;
  if (!absl::SimpleAtoi(argv[5], &options.threads)) {
    return absl::InvalidArgumentError("THREADS is no number");
  }
  double megabytes = 0;
  GRAFT_ASSIGN_OR_RETURN(const double alone, EncodeAlone(dataset, *tokenizer, chat, megabytes));
  const graft::data::TokenSources sources{graft::Sha256::HexOf(tokenizer_json),
                                          graft::Sha256::HexOf(template_text)};
  Json out = Json::MakeObject();
  int64_t tokens = 0;
  for (const char* pass : {"first", "cached"}) {
    const double start = Seconds(), busy = ProcessorSeconds();
    GRAFT_ASSIGN_OR_RETURN(const auto made,
                           TokenizeCached(dataset, *tokenizer, options, sources, argv[6]));
    out.Set(absl::StrCat(pass, "_s"), Seconds() - start);
    out.Set(absl::StrCat(pass, "_processor_s"), ProcessorSeconds() - busy);
    out.Set(absl::StrCat(pass, "_from_cache"), made.from_cache);
    tokens = made.data.stats().tokens;
  }
  out.Set("encode_alone_s", alone).Set("text_mb", megabytes).Set("tokens", tokens);
  std::cout << out.Dump() << "\n";
  return absl::OkStatus();
}

absl::Status Run(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  int number = 0;
  if (argc == 4 && absl::SimpleAtoi(argv[3], &number)) {
    if (verb == "make") return Make(argv[2], number);
    if (verb == "structure") return Structure(argv[2], number);
  }
  if (argc == 7 && verb == "tokens") return Tokens(argv);
  return absl::InvalidArgumentError("see the head of dataset_bench.cc");
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc, argv);
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
