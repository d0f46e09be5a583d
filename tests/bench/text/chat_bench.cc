// How quickly a chat is rendered, and turned into tokens and a mask, on one thread. Reads
//   {"template", "messages", "tokenizer" (path of a tokenizer.json), "bos_token", "eos_token"}
// from standard input and prints one JSON line: microseconds of processor time for the text alone,
// for text and assistant spans, and for the row's tokens and mask. chat_bench.py runs it beside
// jinja2 and transformers.
#include <algorithm>
#include <ctime>
#include <iostream>
#include <iterator>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace {

double ProcessorMicroseconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) * 1e-3;
}

// The best of several rounds, for one call; about as long a time as the peers are given.
template <typename Call>
double Microseconds(Call call) {
  constexpr int kRounds = 50;
  constexpr int kCalls = 400;
  double best = 1e300;
  for (int round = 0; round < kRounds; ++round) {
    const double start = ProcessorMicroseconds();
    for (int i = 0; i < kCalls; ++i) call();
    best = std::min(best, (ProcessorMicroseconds() - start) / kCalls);
  }
  return best;
}

absl::StatusOr<graft::Json> Run(const graft::Json& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto chat,
                         graft::data::ChatTemplate::Compile(request.GetString("template")));
  GRAFT_ASSIGN_OR_RETURN(const auto file, graft::MappedFile::Open(request.GetString("tokenizer")));
  GRAFT_ASSIGN_OR_RETURN(const auto tokenizer, graft::data::Tokenizer::FromJson(file.bytes()));
  graft::data::ChatInput input;
  input.messages = request.Find("messages");
  const std::string bos = request.GetString("bos_token"), eos = request.GetString("eos_token");
  input.bos_token = bos;
  input.eos_token = eos;
  GRAFT_RETURN_IF_ERROR(chat.RenderText(input).status());
  graft::data::Row row;
  row.messages = *input.messages;
  graft::data::TokenizeOptions options;
  options.chat = &chat;
  options.bos_token = bos;
  options.eos_token = eos;
  const auto tokens = [&] {
    return graft::data::TokenizeRow(graft::data::RowFormat::kChat, row, *tokenizer, options);
  };
  GRAFT_ASSIGN_OR_RETURN(const auto first, tokens());
  graft::Json out = graft::Json::MakeObject();
  graft::Json ids = graft::Json::MakeArray(), mask = graft::Json::MakeArray();
  for (const int32_t id : first[0].ids) ids.Append(id);
  for (const uint8_t learnt : first[0].mask) mask.Append(static_cast<int>(learnt));
  out.Set("ids", std::move(ids)).Set("mask", std::move(mask));
  out.Set("render_us", Microseconds([&] { (void)chat.RenderText(input); }));
  out.Set("spans_us", Microseconds([&] { (void)chat.Render(input); }));
  out.Set("tokens_us", Microseconds([&] { (void)tokens(); }));
  return out;
}

}  // namespace

int main() {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  const auto request = graft::Json::Parse(text);
  const auto out = request.ok() ? Run(*request) : request.status();
  if (!out.ok()) {
    std::cerr << out.status() << "\n";
    return 1;
  }
  std::cout << out->Dump() << "\n";
}
