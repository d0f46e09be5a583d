// What would be trained on, told to a person:
//
//   dataset_driver PATH MODEL [--template FILE] [--row N] [--max-seq-length N] [--skip] [--colour]
//
// PATH is a file of rows or a folder with training/ and validation/, MODEL a folder with a
// tokenizer.json (and a chat template), or a tokenizer.json. Prints files, rows, what is wrong with
// which, what the cut takes, warnings, row N with the part to be learnt in marks or in colour, and
// how many steps and passes an epoch of batches of 8 has. Bad rows fail unless --skip.
#include <cstdio>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/dataset/batches.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/duplicates.h"
#include "worker/data/dataset/preview.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace {

using namespace graft::data;  // NOLINT(google-build-using-namespace): a driver of this library

struct Wishes {
  std::string path, model, template_path;
  int64_t row = 0;
  bool skip = false;
  bool colour = false;
  TokenizeOptions tokens;
};

// Everything around the rows that rendering and encoding need.
struct Model {
  std::unique_ptr<Tokenizer> tokenizer;
  absl::optional<ChatTemplate> chat;
  std::string bos, eos;
};

absl::StatusOr<Wishes> ReadWishes(const std::vector<std::string>& args) {
  if (args.size() < 2) return absl::InvalidArgumentError("see the head of dataset_driver.cc");
  Wishes wishes;
  wishes.path = args[0];
  wishes.model = args[1];
  for (size_t i = 2; i < args.size(); ++i) {
    const bool more = i + 1 < args.size();
    if (args[i] == "--skip") {
      wishes.skip = true;
    } else if (args[i] == "--colour") {
      wishes.colour = true;
    } else if (args[i] == "--template" && more) {
      wishes.template_path = args[++i];
    } else if (args[i] == "--row" && more && absl::SimpleAtoi(args[i + 1], &wishes.row)) {
      ++i;
    } else if (args[i] == "--max-seq-length" && more &&
               absl::SimpleAtoi(args[i + 1], &wishes.tokens.max_seq_length)) {
      ++i;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(args[i], ": not an option, or no value"));
    }
  }
  return wishes;
}

// A token of tokenizer_config.json: its text, or an object that holds it.
std::string TokenOf(const graft::Json& config, const char* name) {
  const graft::Json* token = config.Find(name);
  if (token == nullptr) return "";
  return token->is_object() ? token->GetString("content") : config.GetString(name);
}

absl::StatusOr<Model> OpenModel(const Wishes& wishes) {
  const bool single = absl::EndsWith(wishes.model, ".json");
  const std::string folder = single ? "" : wishes.model;
  Model model;
  GRAFT_ASSIGN_OR_RETURN(
      const std::string json,
      graft::ReadFile(single ? wishes.model : graft::JoinPath(folder, "tokenizer.json")));
  GRAFT_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::FromJson(json));
  graft::Json config = graft::Json::MakeObject();
  const std::string config_path = graft::JoinPath(folder, "tokenizer_config.json");
  if (!single && graft::FileExists(config_path)) {
    GRAFT_ASSIGN_OR_RETURN(const std::string text, graft::ReadFile(config_path));
    GRAFT_ASSIGN_OR_RETURN(config, graft::Json::Parse(text));
  }
  model.bos = TokenOf(config, "bos_token");
  model.eos = TokenOf(config, "eos_token");
  std::string own;
  const std::string own_path = graft::JoinPath(folder, "chat_template.jinja");
  if (!wishes.template_path.empty()) {
    GRAFT_ASSIGN_OR_RETURN(own, graft::ReadFile(wishes.template_path));
  } else if (!single && graft::FileExists(own_path)) {
    GRAFT_ASSIGN_OR_RETURN(own, graft::ReadFile(own_path));
  }
  const auto text = FindChatTemplate(&config, own, "default");
  if (text.ok()) {
    GRAFT_ASSIGN_OR_RETURN(model.chat, ChatTemplate::Compile(*text));
  }
  return model;
}

void TellWarnings(const std::vector<DatasetWarning>& warnings) {
  for (const DatasetWarning& warning : warnings) {
    std::cout << "warning: " << warning.code << ": " << warning.message << "\n";
  }
}

void TellProblems(const std::vector<RowProblem>& problems) {
  for (const RowProblem& problem : problems) std::cout << "bad: " << problem.ToString() << "\n";
}

absl::Status Tell(Wishes wishes) {
  GRAFT_ASSIGN_OR_RETURN(const DatasetFiles files, FindDatasetFiles(wishes.path));
  GRAFT_ASSIGN_OR_RETURN(const Model model, OpenModel(wishes));
  DatasetOptions options;
  options.on_bad_row = wishes.tokens.on_bad_row = wishes.skip ? OnBadRow::kSkip : OnBadRow::kFail;
  GRAFT_ASSIGN_OR_RETURN(const Dataset rows, Dataset::Open(files.training, options));
  const DatasetReport& report = rows.report();
  std::cout << files.training.size() << " training and " << files.validation.size()
            << " validation files, " << RowFormatName(report.format) << ", " << report.rows
            << " rows, " << report.bad_rows << " bad\n";
  TellProblems(report.problems);
  TellWarnings(files.warnings);
  TellWarnings(report.warnings);
  GRAFT_RETURN_IF_ERROR(rows.status());

  TokenizeOptions& tokens = wishes.tokens;
  if (model.chat.has_value()) tokens.chat = &*model.chat;
  tokens.bos_token = model.bos;
  tokens.eos_token = model.eos;
  tokens.eos_token_id = model.tokenizer->TokenToId(model.eos).value_or(-1);
  GRAFT_ASSIGN_OR_RETURN(const RowPreview preview,
                         PreviewRow(rows, wishes.row, *model.tokenizer, tokens));
  std::cout << preview.Text(wishes.colour ? kTerminalColours : kPlainMarks);
  GRAFT_ASSIGN_OR_RETURN(const TokenizedDataset set,
                         TokenizeDataset(rows, *model.tokenizer, tokens));
  const TokenStats& stats = set.stats();
  TellProblems(stats.problems);
  TellWarnings(stats.warnings);
  TellWarnings(FindDuplicates({{&set, {}}}, {}).Warnings());
  std::cout << "tokens " << stats.tokens << ", to learn " << stats.supervised_tokens
            << ", longest row " << stats.longest << ", truncated " << stats.truncated_rows
            << " rows (" << stats.truncated_tokens << " tokens lost), left out " << stats.bad_rows
            << " bad and " << stats.dropped_empty << " cut to nothing\n";
  GRAFT_ASSIGN_OR_RETURN(
      const BatchPlan plan,
      BatchPlan::Create({{&set, 1.0, {}}}, {.max_seq_length = stats.max_seq_length}));
  const BatchPlan::Cost cost = plan.EstimateCost();
  std::cout << "steps " << cost.steps_packed << " packed, " << cost.steps_unpacked
            << " unpacked; passes " << cost.micro_batches_packed << " packed, "
            << cost.micro_batches_unpacked << " unpacked\n";
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const auto wishes = ReadWishes(std::vector<std::string>(argv + 1, argv + argc));
  const absl::Status status = wishes.ok() ? Tell(*wishes) : wishes.status();
  if (status.ok()) return 0;
  std::cerr << "dataset_driver: " << status.message() << "\n";
  return 1;
}
