#include "worker/trainer/samples.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::trainer {
namespace {

constexpr int64_t kEarlySteps[] = {10, 50, 100};

// A user's message, or the bare text where the model has no chat template.
ReportRow QuestionOf(const std::string& prompt, const ModelSource& model, int64_t max_tokens) {
  ReportRow question;
  question.prompt = prompt;
  question.question.max_tokens = max_tokens;
  if (model.chat_template.has_value()) {
    Json message = Json::MakeObject();
    message.Set("role", "user");
    message.Set("content", prompt);
    question.question.messages.Append(std::move(message));
  } else {
    question.question.prompt = prompt;
  }
  return question;
}

std::string NameOf(const ReportRow& question) {
  if (question.row > 0) return absl::StrCat("validation row ", question.row);
  return absl::StrCat("the sample prompt \"", question.prompt, "\"");
}

}  // namespace

absl::StatusOr<std::vector<ReportRow>> ChooseSamples(const RunConfig& config,
                                                     const ModelSource& model,
                                                     const std::vector<int64_t>& split_rows,
                                                     EventWriter& events) {
  const EvaluationConfig& wanted = config.evaluation;
  GRAFT_ASSIGN_OR_RETURN(std::vector<ReportRow> questions,
                         ChooseRows(config, split_rows, wanted.sample_rows, wanted.sample_tokens));
  if (wanted.sample_rows > 0 && questions.empty() && config.parallelism.rank == 0) {
    events.Warn("SAMPLE_LEFT_OUT",
                "evaluation.sample_rows: there are no validation rows with an answer to ask for");
  }
  for (const std::string& prompt : wanted.sample_prompts) {
    questions.push_back(QuestionOf(prompt, model, wanted.sample_tokens));
  }
  return questions;
}

bool Samples::Early(int64_t step) {
  return std::find(std::begin(kEarlySteps), std::end(kEarlySteps), step) != std::end(kEarlySteps);
}

absl::Status Samples::AnswerAll(int64_t step) {
  if (questions_.empty()) return absl::OkStatus();
  if (!engine_.Divided()) {
    if (!gang_.first()) return absl::OkStatus();
    gang_.EndTraining();  // the others wait at the next step meanwhile
  }
  for (size_t i = 0; i < questions_.size();) {
    const absl::Status status = AnswerOne(questions_[i], step);
    if (status.ok()) {
      ++i;
    } else if (absl::IsInvalidArgument(status) || absl::IsOutOfRange(status)) {
      if (gang_.first()) {
        events_.Warn("SAMPLE_LEFT_OUT",
                     absl::StrCat(NameOf(questions_[i]), " is not answered: ", status.message()),
                     step);
      }
      questions_.erase(questions_.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status Samples::AnswerOne(const ReportRow& question, int64_t step) {
  GRAFT_ASSIGN_OR_RETURN(Answer answer,
                         generator_.Run(question.question, [](auto) { return true; }));
  if (!gang_.first()) return absl::OkStatus();
  events_.Write(SampleEvent{.step = step,
                            .row = question.row,
                            .prompt = question.prompt,
                            .text = std::move(answer.text),
                            .wanted = question.wanted});
  return absl::OkStatus();
}

}  // namespace graft::trainer
