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
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
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

constexpr int kRounds = 3;  // of encoding alone and the pass, in turns; the best of each counts
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

// The texts that the rows are rendered to.
absl::StatusOr<std::vector<std::string>> TextsOf(const Dataset& dataset,
                                                 const graft::data::ChatTemplate& chat) {
  std::vector<std::string> texts;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    GRAFT_ASSIGN_OR_RETURN(const graft::data::Row row, dataset.ReadRow(i));
    graft::data::ChatInput input;
    input.messages = &row.messages;
    input.bos_token = kBos;
    GRAFT_ASSIGN_OR_RETURN(std::string text, chat.RenderText(input));
    texts.push_back(std::move(text));
  }
  return texts;
}

// Encodes them with offsets, as the pass does, on as many threads as the pass has.
void EncodeAll(const std::vector<std::string>& texts, const graft::data::Tokenizer& tokenizer,
               int threads) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    graft::data::Encoding encoding;
    for (size_t i = next++; i < texts.size(); i = next++) {
      GRAFT_CHECK_OK(tokenizer.EncodeInto(texts[i], {.offsets = true}, encoding));
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
}

// Runs `call` and keeps `name`_s by the clock and `name`_processor_s over all threads, where they
// are the least so far.
template <typename Call>
void Timed(const char* name, Json& out, Call call) {
  const double start = Seconds(), busy = ProcessorSeconds();
  call();
  const auto keep_least = [&](const std::string& key, double seconds) {
    const Json* before = out.Find(key);
    if (before == nullptr || before->as_double() > seconds) out.Set(key, seconds);
  };
  keep_least(absl::StrCat(name, "_s"), Seconds() - start);
  keep_least(absl::StrCat(name, "_processor_s"), ProcessorSeconds() - busy);
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
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, TextsOf(dataset, chat));
  double megabytes = 0;
  for (const std::string& text : texts) megabytes += static_cast<double>(text.size()) / 1e6;
  Json out = Json::MakeObject();
  EncodeAll(texts, *tokenizer, options.threads);  // every thread's word cache is filled
  int64_t tokens = 0;
  for (int round = 0; round < kRounds; ++round) {
    Timed("encode_alone", out, [&] { EncodeAll(texts, *tokenizer, options.threads); });
    Timed("pass", out, [&] {
      const auto made = TokenizeDataset(dataset, *tokenizer, options);
      GRAFT_CHECK_OK(made.status());
      tokens = made->stats().tokens;
    });
  }
  const graft::data::TokenSources sources{graft::Sha256::HexOf(tokenizer_json),
                                          graft::Sha256::HexOf(template_text)};
  for (const char* pass : {"first", "cached"}) {
    Timed(pass, out, [&] {
      const auto made = TokenizeCached(dataset, *tokenizer, options, sources, argv[6]);
      GRAFT_CHECK_OK(made.status());
      out.Set(absl::StrCat(pass, "_from_cache"), made->from_cache);
    });
  }
  out.Set("text_mb", megabytes).Set("tokens", tokens);
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
