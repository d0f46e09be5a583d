#include "worker/trainer/generate_server.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "base/mutex.h"
#include "base/status_macros.h"
#include "worker/model/decoder_build.h"
#include "worker/model/torch_boundary.h"
#include "worker/trainer/adapter_files.h"
#include "worker/trainer/generate_protocol.h"
#include "worker/trainer/generator.h"
#include "worker/trainer/model_source.h"

namespace graft::trainer {
namespace {

// Requests that wait; a caller that sends more is told so.
constexpr size_t kMaxQueuedRequests = 1024;

class ReplyWriter {
 public:
  explicit ReplyWriter(int fd) : fd_(fd) {}
  // False when the reader has gone. Called from the generating and the reading thread.
  bool Write(const GenerateReply& reply) {
    const std::string line = FormatGenerateReply(reply) + "\n";
    absl::string_view rest = line;
    MutexLock lock(mu_);
    while (!rest.empty()) {
      const ssize_t wrote = write(fd_, rest.data(), rest.size());
      if (wrote > 0) {
        rest.remove_prefix(static_cast<size_t>(wrote));
      } else if (wrote < 0 && errno != EINTR) {
        return false;
      }
    }
    return true;
  }

 private:
  const int fd_;
  Mutex mu_;
};

// Reads lines on a thread of its own, so that a cancellation reaches the answer that is being made.
class RequestQueue {
 public:
  RequestQueue(int fd, ReplyWriter& replies) : fd_(fd), replies_(replies) {
    reader_ = std::thread([this] { Read(); });
  }
  ~RequestQueue() { reader_.join(); }

  // False at the end of the input.
  bool Next(GenerateRequest* request) {
    MutexLock lock(mu_);
    while (queue_.empty() && !ended_) wake_.Wait(mu_);
    if (queue_.empty()) return false;
    *request = std::move(queue_.front());
    queue_.pop_front();
    return true;
  }

  bool IsCancelled(const std::string& id) {
    MutexLock lock(mu_);
    return cancelled_.count(id) > 0;
  }
  void Forget(const std::string& id) {
    MutexLock lock(mu_);
    cancelled_.erase(id);
  }

 private:
  void Read() {
    std::string line;
    char buffer[4096];
    while (true) {
      const ssize_t got = read(fd_, buffer, sizeof(buffer));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) break;
      for (ssize_t i = 0; i < got; ++i) {
        if (buffer[i] != '\n') {
          // One byte beyond the limit is kept, so that the line is refused as too long.
          if (line.size() <= kMaxGenerateLineBytes) line.push_back(buffer[i]);
        } else {
          Take(line);
          line.clear();
        }
      }
    }
    if (!line.empty()) Take(line);
    MutexLock lock(mu_);
    ended_ = true;
    wake_.SignalAll();
  }

  void Take(const std::string& line) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) return;
    auto input = ParseGenerateInput(line);
    if (!input.ok()) {
      const auto json = Json::Parse(line);
      const std::string id = json.ok() && json->is_object() ? json->GetString("id") : "";
      replies_.Write(FailedReply{id, FailureCode::kInvalid, std::string(input.status().message())});
      return;
    }
    MutexLock lock(mu_);
    if (auto* cancel = std::get_if<CancelRequest>(&*input)) {
      cancelled_.insert(cancel->cancel);
      return;
    }
    auto& request = std::get<GenerateRequest>(*input);
    if (queue_.size() >= kMaxQueuedRequests) {
      replies_.Write(FailedReply{request.id, FailureCode::kInternal,
                                 "too many requests wait; send it again later"});
      return;
    }
    queue_.push_back(std::move(request));
    wake_.SignalAll();
  }

  const int fd_;
  ReplyWriter& replies_;
  Mutex mu_;
  CondVar wake_;
  std::deque<GenerateRequest> queue_ GRAFT_GUARDED_BY(mu_);
  std::set<std::string> cancelled_ GRAFT_GUARDED_BY(mu_);
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread reader_;
};

FailureCode CodeOf(const absl::Status& status) {
  if (absl::IsOutOfRange(status)) return FailureCode::kContextExceeded;
  return absl::IsInvalidArgument(status) ? FailureCode::kInvalid : FailureCode::kInternal;
}

at::ScalarType KeptType(WeightsType wanted, const spec::ModelFacts& facts) {
  if (wanted == WeightsType::kFp32) return at::kFloat;
  if (wanted == WeightsType::kBf16) return at::kBFloat16;
  return facts.precision == "F32" ? at::kFloat : at::kBFloat16;
}

absl::StatusOr<std::unique_ptr<model::Decoder>> Build(const GenerateOptions& options,
                                                      const ModelSource& model) {
  model::BuildOptions build;
  build.frozen_type = KeptType(options.weights, model.description.facts);
  if (!options.adapter.empty()) {
    build.train = model::Train::kLora;
    GRAFT_ASSIGN_OR_RETURN(build.lora, ReadAdapterOptions(options.adapter));
  }
  std::unique_ptr<model::Decoder> decoder;
  absl::Status built;
  GRAFT_RETURN_IF_ERROR(model::TorchCall("loading the model", [&] {
    auto made = model::BuildDecoder(model.description, *model.reader, build);
    built = made.status();
    if (made.ok()) decoder = *std::move(made);
    if (built.ok() && !options.adapter.empty()) {
      built = ReadAdapter(options.adapter, model.description, *decoder);
    }
  }));
  GRAFT_RETURN_IF_ERROR(built);
  return decoder;
}

}  // namespace

absl::Status ServeGenerate(const GenerateOptions& options) {
  if (options.threads > 0) at::set_num_threads(options.threads);
  GRAFT_ASSIGN_OR_RETURN(const auto model, OpenModel(options.model, options.chat_template));
  GRAFT_ASSIGN_OR_RETURN(const auto decoder, Build(options, *model));
  ReplyWriter replies(options.out_fd);
  ReadyReply ready;
  ready.model = options.model;
  ready.adapter = options.adapter;
  ready.context_length = model->description.spec.context;
  if (!replies.Write(ready)) return absl::OkStatus();
  RequestQueue queue(options.in_fd, replies);
  const Generator generator(
      *model, [&](int64_t capacity) { return ContinueWithCache(*decoder, capacity); });
  GenerateRequest request;
  while (queue.Next(&request)) {
    const auto answer = generator.Run(request, [&](absl::string_view text) {
      return !queue.IsCancelled(request.id) &&
             replies.Write(TokenReply{request.id, std::string(text)});
    });
    queue.Forget(request.id);
    if (!answer.ok()) {
      replies.Write(
          FailedReply{request.id, CodeOf(answer.status()), std::string(answer.status().message())});
      continue;
    }
    replies.Write(EndReply{request.id, answer->finish_reason, answer->prompt_tokens,
                           answer->completion_tokens, answer->first_token_seconds,
                           answer->tokens_per_second});
  }
  return absl::OkStatus();
}

}  // namespace graft::trainer
