// How quickly chat templates are rendered, one thread. Reads {"template", "messages"} as one JSON
// value from standard input and prints one JSON line: microseconds per rendering, without and with
// assistant spans. template_bench.py runs it beside jinja2 and transformers.
#include <chrono>
#include <iostream>
#include <iterator>
#include <string>

#include "base/json.h"
#include "worker/data/chat/chat_template.h"

namespace {

using Clock = std::chrono::steady_clock;

// The best of several rounds, in microseconds for one call.
template <typename Call>
double Microseconds(Call call) {
  constexpr int kRounds = 7;
  constexpr int kCalls = 400;
  double best = 1e300;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = Clock::now();
    for (int i = 0; i < kCalls; ++i) call();
    const std::chrono::duration<double, std::micro> spent = Clock::now() - start;
    best = std::min(best, spent.count() / kCalls);
  }
  return best;
}

}  // namespace

int main() {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  const auto request = graft::Json::Parse(text);
  if (!request.ok()) return 1;
  const auto chat = graft::data::ChatTemplate::Compile(request->GetString("template"));
  if (!chat.ok()) {
    std::cerr << chat.status() << "\n";
    return 1;
  }
  graft::data::ChatInput input;
  input.messages = request->Find("messages");
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  graft::Json out = graft::Json::MakeObject();
  out.Set("render_us", Microseconds([&] { (void)chat->RenderText(input); }));
  out.Set("spans_us", Microseconds([&] { (void)chat->Render(input); }));
  std::cout << out.Dump() << "\n";
}
