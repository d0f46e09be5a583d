// graft model fit: which models can be trained here, how long their rows may be, and how long it
// takes.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/resources.h"

namespace graft::cli {
namespace {

constexpr int kRowsOfTime = 1000;
constexpr int kGlobalBatch = 8;
constexpr int kUsualLength = 2048;  // at which the micro batch is sought
constexpr int kShortest = 256, kMostMicro = 64;

class Fit {
 public:
  Fit(client::Client& client, const v1::Model& model, v1::FinetuningType type, int64_t memory)
      : client_(client), model_(model), type_(type), memory_(memory) {}

  // The longest rows with a micro batch of one, then the largest micro batch at a usual length.
  absl::Status Search() {
    const int64_t context = std::max<int64_t>(model_.spec().context_length(), kShortest);
    for (int64_t length = kShortest;; length = std::min(length * 2, context)) {
      GRAFT_ASSIGN_OR_RETURN(const auto answer, Ask(length, 1));
      if (!answer.fits()) {
        if (length_ == 0) needed_ = answer.estimate().device_memory().total();
        break;
      }
      length_ = length;
      if (length == context) break;
    }
    if (length_ == 0) return absl::OkStatus();
    usual_ = std::min<int64_t>(length_, kUsualLength);
    for (int micro = 1; micro <= kMostMicro; micro *= 2) {
      GRAFT_ASSIGN_OR_RETURN(const auto answer, Ask(usual_, micro));
      if (!answer.fits()) break;
      micro_ = micro;
      estimate_ = answer.estimate();
    }
    return absl::OkStatus();
  }

  Json ToJson() const {
    Json json = Json::MakeObject();
    json.Set("name", ShortName(model_.name())).Set("tuning", Tuning());
    json.Set("parameters", model_.spec().parameters()).Set("fits", length_ > 0);
    json.Set("max_seq_length", length_).Set("micro_batch_size", static_cast<int64_t>(micro_));
    json.Set("device_memory", length_ > 0 ? estimate_.device_memory().total() : needed_);
    json.Set("hours_per_1000_rows", Hours());
    return json;
  }

  std::vector<std::string> Row() const {
    std::vector<std::string> row = {ShortName(model_.name()),
                                    FormatCount(model_.spec().parameters()), Tuning()};
    if (length_ == 0) {
      row.insert(row.end(), {"no", "-", FormatBytes(needed_), "-"});
      return row;
    }
    row.push_back(absl::StrCat(length_));
    row.push_back(absl::StrCat(micro_, " x ", usual_));
    row.push_back(FormatBytes(estimate_.device_memory().total()));
    row.push_back(Hours() > 0 ? HumanDuration(absl::Hours(Hours())) : "-");
    return row;
  }

 private:
  std::string Tuning() const { return WordOf(v1::FinetuningType_Name(type_), "FINETUNING_TYPE_"); }
  double Hours() const {
    return estimate_.step_seconds() * kRowsOfTime / std::max(kGlobalBatch, micro_) / 3600;
  }

  absl::StatusOr<v1::EstimateJobResponse> Ask(int64_t length, int micro) {
    v1::EstimateJobRequest request;
    request.set_parent(client_.workspace());
    request.set_device_memory(memory_);
    v1::JobSpec& spec = *request.mutable_spec();
    spec.mutable_model()->set_base(model_.name());
    spec.mutable_tuning()->set_type(type_);
    spec.mutable_batch()->set_max_seq_length(static_cast<int32_t>(length));
    spec.mutable_batch()->set_micro_batch_size(micro);
    spec.mutable_batch()->set_global_batch_size(std::max(kGlobalBatch, micro));
    return client_.Call<v1::EstimateJobResponse>(client_.jobs(), &v1::JobService::Stub::EstimateJob,
                                                 request, {.idempotent = true});
  }

  client::Client& client_;
  const v1::Model& model_;
  const v1::FinetuningType type_;
  const int64_t memory_;
  int64_t length_ = 0, usual_ = 0, needed_ = 0;
  int micro_ = 0;
  v1::Estimate estimate_;
};

absl::Status FitModels(Invocation& invocation) {
  double memory_gb = 0;
  invocation.flags.Double("memory-gb", &memory_gb, "GB",
                          "a device of this size instead of the cluster's");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(
      "graft model fit [MODEL...]\n\n"
      "MAX LENGTH is in tokens, with one row at a time; MICRO BATCH the rows at a time at that\n"
      "length; the time is for 1,000 rows of that length, computed and not measured."));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(std::vector<v1::Model> models, FetchModels(*client, ""));
  const std::vector<std::string>& words = invocation.flags.words();
  for (const std::string& word : words) {
    const std::string name = client->Name("models", word);
    if (std::none_of(models.begin(), models.end(),
                     [&name](const v1::Model& model) { return model.name() == name; })) {
      return absl::NotFoundError(absl::StrCat("there is no ", name, "; `graft model list`"));
    }
  }
  Table table(
      {"MODEL", "PARAMETERS", "TUNING", "MAX LENGTH", "MICRO BATCH", "MEMORY", "1,000 ROWS"});
  for (size_t column : {1u, 3u, 4u, 5u, 6u}) table.AlignRight(column);
  Json list = Json::MakeArray();
  for (const v1::Model& model : models) {
    const bool wanted =
        words.empty() || std::any_of(words.begin(), words.end(), [&](const std::string& word) {
          return client->Name("models", word) == model.name();
        });
    if (!wanted || model.state() == v1::Model::STATE_UNUSABLE) continue;
    for (const auto type : {v1::FINETUNING_TYPE_LORA, v1::FINETUNING_TYPE_ALL_WEIGHTS}) {
      Fit fit(*client, model, type, static_cast<int64_t>(memory_gb * 1e9));
      GRAFT_RETURN_IF_ERROR(fit.Search());
      table.Add(fit.Row());
      list.Append(fit.ToJson());
    }
  }
  return invocation.PrintJson(list, [&] { return table.Render(invocation.out); });
}

}  // namespace

const std::vector<Command>& FitCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"model fit", "which models can be trained here, with what length and batch", FitModels},
  };
  return commands;
}

}  // namespace graft::cli
