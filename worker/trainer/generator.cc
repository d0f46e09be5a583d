#include "worker/trainer/generator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/torch_boundary.h"
#include "worker/trainer/elapsed.h"
#include "worker/trainer/sampler.h"

namespace graft::trainer {
namespace {

// Holds back text that may be the beginning of a stop string.
class StopFinder {
 public:
  explicit StopFinder(const std::vector<std::string>& stops) : stops_(stops) {}

  // Adds text; returns what can be shown. `stopped` is set when a stop string is complete.
  std::string Add(absl::string_view text, bool* stopped) {
    held_.append(text.data(), text.size());
    size_t first = std::string::npos;
    for (const std::string& stop : stops_) {
      if (!stop.empty()) first = std::min(first, held_.find(stop));
    }
    if (first != std::string::npos) {
      *stopped = true;
      return held_.substr(0, first);
    }
    size_t keep = 0;
    for (const std::string& stop : stops_) keep = std::max(keep, PartialEnd(stop));
    std::string shown = held_.substr(0, held_.size() - keep);
    held_.erase(0, shown.size());
    return shown;
  }
  std::string Rest() { return std::move(held_); }

 private:
  // The longest end of what is held that is a beginning of `stop`.
  size_t PartialEnd(const std::string& stop) const {
    if (stop.empty()) return 0;
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) return n;
    }
    return 0;
  }

  const std::vector<std::string>& stops_;
  std::string held_;
};

}  // namespace

absl::StatusOr<std::vector<int32_t>> Generator::PromptIds(const GenerateRequest& request) const {
  std::string text = request.prompt;
  data::EncodeOptions encode;
  if (!request.messages.is_null()) {
    if (!model_.chat_template.has_value()) {
      return absl::InvalidArgumentError("the model has no chat template; send a prompt instead");
    }
    data::ChatInput input;
    input.messages = &request.messages;
    if (!request.tools.is_null()) input.tools = &request.tools;
    input.add_generation_prompt = true;
    input.bos_token = model_.bos_token;
    input.eos_token = model_.eos_token;
    GRAFT_ASSIGN_OR_RETURN(text, model_.chat_template->RenderText(input));
  } else {
    encode.add_special_tokens = true;
  }
  GRAFT_ASSIGN_OR_RETURN(data::Encoding encoding, model_.tokenizer->Encode(text, encode));
  if (encoding.ids.empty()) return absl::InvalidArgumentError("the prompt is empty");
  const int64_t context = model_.description.spec.context;
  if (context > 0 && static_cast<int64_t>(encoding.ids.size()) >= context) {
    return absl::OutOfRangeError(absl::StrCat("the prompt has ", encoding.ids.size(),
                                              " tokens; the context holds ", context));
  }
  return std::move(encoding.ids);
}

bool Generator::Ends(int32_t id) const {
  return std::find(model_.stop_ids.begin(), model_.stop_ids.end(), id) != model_.stop_ids.end();
}

absl::StatusOr<Answer> Generator::Run(const GenerateRequest& request, const OnText& on_text) const {
  const auto start = SteadyClock::now();
  GRAFT_ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, PromptIds(request));
  Answer answer;
  answer.prompt_tokens = static_cast<int64_t>(prompt.size());
  int64_t budget = request.max_tokens;
  if (const int64_t context = model_.description.spec.context; context > 0) {
    budget = std::min(budget, context - answer.prompt_tokens);
  }
  Sampler sampler({request.temperature, request.top_p, request.top_k},
                  static_cast<uint64_t>(request.seed));
  data::StreamDecoder stream(*model_.tokenizer, {.skip_special_tokens = true});
  StopFinder stops(request.stop);
  SteadyClock::time_point first;
  bool stopped = false;
  const auto show = [&](const std::string& text) {
    if (text.empty()) return true;
    answer.text += text;
    return on_text(text);
  };
  const absl::Status status = model::TorchCall("generating", [&] {
    const Continuation extend = begin_(answer.prompt_tokens + budget);
    at::Tensor logits = extend(prompt);
    answer.finish_reason = FinishReason::kLength;
    while (answer.completion_tokens < budget) {
      const int32_t id = sampler.Choose(logits.const_data_ptr<float>(), logits.numel());
      if (answer.completion_tokens == 0) {
        first = SteadyClock::now();
        answer.first_token_seconds = SecondsSince(start);
      }
      ++answer.completion_tokens;
      answer.ids.push_back(id);
      if (Ends(id)) {
        answer.finish_reason = FinishReason::kStop;
        break;
      }
      if (!show(stops.Add(stream.Add(id), &stopped))) {
        answer.finish_reason = FinishReason::kCancelled;
        return;
      }
      if (stopped) {
        answer.finish_reason = FinishReason::kStop;
        return;
      }
      if (answer.completion_tokens < budget) logits = extend({id});
    }
    show(stops.Add(stream.Finish(), &stopped) + (stopped ? std::string() : stops.Rest()));
  });
  GRAFT_RETURN_IF_ERROR(status);
  const double after = SecondsSince(first);
  if (answer.completion_tokens > 1 && after > 0) {
    answer.tokens_per_second = static_cast<double>(answer.completion_tokens - 1) / after;
  }
  return answer;
}

}  // namespace graft::trainer
