// graft chat and graft complete.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "client/cli/command.h"

namespace graft::cli {
namespace {

// "MODEL", or "MODEL+ADAPTER".
std::string Target(client::Client& client, const std::string& word) {
  const size_t plus = word.find('+');
  const std::string model = client.Name("models", word.substr(0, plus));
  return plus == std::string::npos ? model
                                   : absl::StrCat(model, "/adapters/", word.substr(plus + 1));
}

struct GenerationFlags {
  int64_t max_tokens = 0;
  double temperature = 0;
  int64_t seed = 0;

  void Add(FlagSet& flags) {
    flags.Int("max-tokens", &max_tokens, "N", "longest answer");
    flags.Double("temperature", &temperature, "X", "0 takes the likeliest token always");
    flags.Int("seed", &seed, "N", "the same answer again");
  }
  void Apply(const FlagSet& flags, v1::GenerationConfig& config) const {
    if (flags.Given("max-tokens")) config.set_max_tokens(static_cast<int32_t>(max_tokens));
    if (flags.Given("temperature")) config.set_temperature(temperature);
    if (flags.Given("seed")) config.set_seed(seed);
  }
};

void SayWaiting(const Invocation& invocation, const std::string& waiting) {
  if (!waiting.empty() && invocation.err.is_terminal) {
    fprintf(stderr, "\r\x1b[K%s", invocation.err.Paint(Style::kDim, Sanitize(waiting)).c_str());
  }
}

// Prints the deltas of a stream as they come and returns the whole answer.
template <typename Response, typename Stream>
absl::StatusOr<std::string> PrintAnswer(const Invocation& invocation, Stream& stream) {
  std::string answer;
  Response response;
  bool begun = false;
  while (stream.Read(&response)) {
    SayWaiting(invocation, response.waiting());
    for (const v1::Warning& warning : response.warnings()) {
      invocation.Say(absl::StrCat("warning: ", Sanitize(warning.message())));
    }
    if (response.delta().empty()) continue;
    if (!begun && invocation.err.is_terminal) fprintf(stderr, "\r\x1b[K");
    begun = true;
    answer += response.delta();
    fputs(Sanitize(response.delta(), true).c_str(), stdout);
    fflush(stdout);
  }
  GRAFT_RETURN_IF_ERROR(rpc::FromGrpcStatus(stream.Finish()));
  fputs("\n", stdout);
  return answer;
}

absl::StatusOr<std::string> Ask(Invocation& invocation, client::Client& client,
                                const v1::ChatRequest& request) {
  grpc::ClientContext context;
  GRAFT_RETURN_IF_ERROR(client.connection().Prepare(context));
  const auto stream = client.inference().Chat(&context, request);
  return PrintAnswer<v1::ChatResponse>(invocation, *stream);
}

void AddMessage(v1::ChatRequest& request, const char* role, const std::string& content) {
  v1::ChatMessage& message = *request.add_messages();
  message.set_role(role);
  message.set_content(content);
}

absl::Status Chat(Invocation& invocation) {
  std::string message, system;
  GenerationFlags generation;
  invocation.flags.String("message", &message, "TEXT", "ask this and leave");
  invocation.flags.Short('m');
  invocation.flags.String("system", &system, "TEXT", "the system prompt");
  generation.Add(invocation.flags);
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft chat MODEL[+ADAPTER] [-m TEXT]"));
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the MODEL"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ChatRequest request;
  request.set_model(Target(*client, word));
  generation.Apply(invocation.flags, *request.mutable_config());
  if (!system.empty()) AddMessage(request, "system", system);
  if (!message.empty()) {
    AddMessage(request, "user", message);
    return Ask(invocation, *client, request).status();
  }
  const bool prompt = isatty(0) == 1 && invocation.out.is_terminal;
  std::string line;
  for (;;) {
    if (prompt) {
      fputs(invocation.out.Paint(Style::kBold, "you> ").c_str(), stdout);
      fflush(stdout);
    }
    if (!std::getline(std::cin, line)) return absl::OkStatus();
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    AddMessage(request, "user", line);
    GRAFT_ASSIGN_OR_RETURN(const std::string answer, Ask(invocation, *client, request));
    AddMessage(request, "assistant", answer);
  }
}

absl::Status Complete(Invocation& invocation) {
  std::string text;
  GenerationFlags generation;
  invocation.flags.String("prompt", &text, "TEXT", "go on from this");
  invocation.flags.Short('p');
  generation.Add(invocation.flags);
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft complete MODEL[+ADAPTER] -p TEXT"));
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the MODEL"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::CompleteRequest request;
  request.set_model(Target(*client, word));
  request.set_prompt(text);
  generation.Apply(invocation.flags, *request.mutable_config());
  grpc::ClientContext context;
  GRAFT_RETURN_IF_ERROR(client->connection().Prepare(context));
  const auto stream = client->inference().Complete(&context, request);
  return PrintAnswer<v1::CompleteResponse>(invocation, *stream).status();
}

}  // namespace

const std::vector<Command>& ChatCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"chat", "talk to a model, with any of its adapters", Chat},
      {"complete", "let a model go on from a text", Complete},
  };
  return commands;
}

}  // namespace graft::cli
