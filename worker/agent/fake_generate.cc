#include "worker/agent/fake_generate.h"

#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <iostream>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/trainer/generate_protocol.h"

namespace graft::agent {
namespace {

void Say(const trainer::GenerateReply& reply) {
  std::cout << trainer::FormatGenerateReply(reply) << std::endl;
}

class Server {
 public:
  Server() {
    double seconds = 0;
    const char* given = std::getenv("GRAFT_FAKE_TOKEN_SECONDS");
    if (given != nullptr && absl::SimpleAtod(given, &seconds)) pause_ = absl::Seconds(seconds);
  }

  void Run() {
    Say(trainer::ReadyReply{.model = "fake", .context_length = kFakeContext});
    while (!waiting_.empty() || Read(true)) {
      if (waiting_.empty()) continue;
      const trainer::GenerateRequest request = std::move(waiting_.front());
      waiting_.pop_front();
      Answer(request);
    }
  }

 private:
  // Takes in what has come; with `wait`, waits for something. False at the end of the input.
  bool Read(bool wait) {
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    while (poll(&input, 1, wait ? -1 : 0) > 0) {
      char buffer[65536];
      const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
      if (got <= 0) return false;
      text_.append(buffer, static_cast<size_t>(got));
      for (size_t end; (end = text_.find('\n')) != std::string::npos; text_.erase(0, end + 1)) {
        Take(text_.substr(0, end));
      }
      wait = false;
    }
    return true;
  }

  void Take(const std::string& line) {
    absl::StatusOr<trainer::GenerateInput> input = trainer::ParseGenerateInput(line);
    if (!input.ok()) {
      Say(trainer::FailedReply{.code = trainer::FailureCode::kInvalid,
                               .message = std::string(input.status().message())});
    } else if (const auto* cancel = std::get_if<trainer::CancelRequest>(&*input)) {
      cancelled_.insert(cancel->cancel);
    } else {
      waiting_.push_back(std::get<trainer::GenerateRequest>(*std::move(input)));
    }
  }

  static std::string Asked(const trainer::GenerateRequest& request) {
    if (!request.messages.is_array() || request.messages.as_array().empty()) return request.prompt;
    return request.messages.as_array().back().GetString("content");
  }

  void Answer(const trainer::GenerateRequest& request) {
    const std::vector<std::string> words = absl::StrSplit(Asked(request), ' ', absl::SkipEmpty());
    trainer::EndReply end{.id = request.id, .prompt_tokens = static_cast<int64_t>(words.size())};
    if (end.prompt_tokens >= kFakeContext) {
      return Say(trainer::FailedReply{
          .id = request.id,
          .code = trainer::FailureCode::kContextExceeded,
          .message = absl::StrCat("the prompt has ", words.size(), " tokens; the context holds ",
                                  kFakeContext)});
    }
    Say(trainer::TokenReply{.id = request.id, .text = "(fake)"});
    for (const std::string& word : words) {
      if (end.completion_tokens == request.max_tokens) {
        end.finish_reason = trainer::FinishReason::kLength;
        break;
      }
      absl::SleepFor(pause_);
      Read(false);
      if (cancelled_.erase(request.id) > 0) {
        end.finish_reason = trainer::FinishReason::kCancelled;
        break;
      }
      Say(trainer::TokenReply{.id = request.id, .text = absl::StrCat(" ", word)});
      ++end.completion_tokens;
    }
    Say(end);
  }

  absl::Duration pause_ = absl::ZeroDuration();
  std::string text_;
  std::deque<trainer::GenerateRequest> waiting_;
  std::set<std::string> cancelled_;
};

}  // namespace

int FakeGenerate() {
  Server().Run();
  return 0;
}

}  // namespace graft::agent
