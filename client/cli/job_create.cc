// graft job create and its short forms graft lora and graft sft; job init, schema, estimate.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/job_submit.h"
#include "client/graft/job_file.h"

namespace graft::cli {
namespace {

absl::StatusOr<client::JobFile> ReadJobFile(const std::string& file) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(file == "-" ? "/dev/stdin" : file, client::kMaxJobFileBytes));
  return client::ParseJobFile(text, file);
}

absl::Status CreateJob(Invocation& invocation) {
  std::string file;
  SubmitFlags flags;
  invocation.flags.String("file", &file, "FILE",
                          "the job file, YAML or JSON; - reads standard input");
  invocation.flags.Short('f');
  flags.Declare(invocation.flags, "a field of the spec, such as optimizer.learning_rate=1e-4");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft job create -f FILE [--set PATH=VALUE ...] [--watch]"));
  client::JobFile job;
  if (!file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(job, ReadJobFile(file));
  }
  GRAFT_RETURN_IF_ERROR(ApplySets(flags.sets, *job.job.mutable_spec()));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::CreateJobRequest request;
  request.set_job_id(flags.name.empty() ? job.job_id : flags.name);
  *request.mutable_job() = job.job;
  return Submit(invocation, *client, std::move(request), flags);
}

absl::Status TuneShort(Invocation& invocation, v1::FinetuningType type, absl::string_view usage) {
  std::string output, from_adapter, from_job;
  double epochs = 0, learning_rate = 0;
  int64_t max_steps = 0, rank = 0, alpha = 0, batch = 0, max_seq_length = 0, seed = -1;
  SubmitFlags submit;
  FlagSet& flags = invocation.flags;
  submit.Declare(flags, "any other field of the spec");
  flags.String("output-name", &output, "NAME", "the name of what comes out");
  flags.Double("epochs", &epochs, "N", "passes over the data");
  flags.Int("max-steps", &max_steps, "N", "optimizer steps at most");
  flags.Double("lr", &learning_rate, "X", "learning rate");
  flags.Int("rank", &rank, "N", "LoRA rank");
  flags.Int("alpha", &alpha, "N", "LoRA alpha");
  flags.Int("batch", &batch, "N", "examples of one step");
  flags.Int("max-seq-length", &max_seq_length, "N", "longest sequence in tokens");
  flags.Int("seed", &seed, "N", "the seed");
  flags.String("from-adapter", &from_adapter, "ADAPTER", "begin with the weights of the adapter");
  flags.String(
      "from-job", &from_job, "JOB[/POINT]",
      "begin with what the job has made, or with the weights of its checkpoint: a step, best "
      "or latest");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(const std::string model, invocation.Word(0, "the MODEL"));
  GRAFT_ASSIGN_OR_RETURN(const std::string dataset, invocation.Word(1, "the DATASET"));
  v1::CreateJobRequest request;
  request.set_job_id(submit.name);
  v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_model()->set_base(model);
  spec.mutable_dataset()->add_training()->set_fileset(dataset);
  spec.mutable_method()->mutable_sft();
  spec.mutable_tuning()->set_type(type);
  if (flags.Given("epochs")) spec.mutable_schedule()->set_epochs(epochs);
  if (flags.Given("max-steps")) spec.mutable_schedule()->set_max_steps(max_steps);
  if (flags.Given("seed")) spec.mutable_schedule()->set_seed(seed);
  if (flags.Given("lr")) spec.mutable_optimizer()->set_learning_rate(learning_rate);
  if (flags.Given("rank"))
    spec.mutable_tuning()->mutable_lora()->set_rank(static_cast<int32_t>(rank));
  if (flags.Given("alpha"))
    spec.mutable_tuning()->mutable_lora()->set_alpha(static_cast<double>(alpha));
  if (flags.Given("batch"))
    spec.mutable_batch()->set_global_batch_size(static_cast<int32_t>(batch));
  if (flags.Given("max-seq-length")) {
    spec.mutable_batch()->set_max_seq_length(static_cast<int32_t>(max_seq_length));
  }
  if (!output.empty()) spec.mutable_output()->set_name(output);
  if (!from_adapter.empty() && !from_job.empty()) {
    return absl::InvalidArgumentError("--from-adapter and --from-job exclude each other");
  }
  v1::StartFrom start;
  if (!from_adapter.empty()) start.set_adapter(from_adapter);
  const bool whole = absl::StartsWith(from_job, "workspaces/");
  if (absl::StrContains(from_job, whole ? "/checkpoints/" : "/")) {
    start.set_checkpoint(from_job);
  } else if (!from_job.empty()) {
    start.set_job(from_job);
  }
  if (start.source_case() != v1::StartFrom::SOURCE_NOT_SET) {
    *spec.mutable_model()->mutable_start_from() = start;
  }
  GRAFT_RETURN_IF_ERROR(ApplySets(submit.sets, spec));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  return Submit(invocation, *client, std::move(request), submit);
}

absl::Status Lora(Invocation& invocation) {
  return TuneShort(invocation, v1::FINETUNING_TYPE_LORA, "graft lora MODEL DATASET [flags]");
}
absl::Status Sft(Invocation& invocation) {
  return TuneShort(invocation, v1::FINETUNING_TYPE_ALL_WEIGHTS, "graft sft MODEL DATASET [flags]");
}

absl::StatusOr<v1::GetJobSchemaResponse> FetchSchema(client::Client& client,
                                                     const std::string& method) {
  v1::GetJobSchemaRequest request;
  request.set_method(v1::METHOD_SFT);
  if (!method.empty()) GRAFT_RETURN_IF_ERROR(client::SetField("method", method, request));
  return client.Call<v1::GetJobSchemaResponse>(client.jobs(), &v1::JobService::Stub::GetJobSchema,
                                               request, {.idempotent = true});
}

absl::Status JobSchema(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job schema [METHOD]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(
      const auto schema,
      FetchSchema(*client, invocation.word_count() > 0 ? invocation.flags.words()[0] : ""));
  invocation.Write(schema.json_schema() + "\n");
  return absl::OkStatus();
}

// The commented file with another value for a key of a section, which may be commented out.
std::string WithLine(const std::string& text, absl::string_view section, absl::string_view key,
                     absl::string_view value) {
  std::vector<std::string> lines = absl::StrSplit(text, '\n');
  bool inside = false;
  for (std::string& line : lines) {
    if (!line.empty() && line[0] != ' ' && line[0] != '#')
      inside = line == absl::StrCat(section, ":");
    absl::string_view rest = line;
    if (!inside || !absl::ConsumePrefix(&rest, "  ")) continue;
    absl::ConsumePrefix(&rest, "# ");
    if (!absl::ConsumePrefix(&rest, key) || !absl::StartsWith(rest, ":")) continue;
    line = absl::StrCat("  ", key, ": ", value);
    break;
  }
  return absl::StrJoin(lines, "\n");
}

absl::Status InitJob(Invocation& invocation) {
  std::string method, model = "MODEL", dataset = "DATASET";
  invocation.flags.String("method", &method, "METHOD",
                          "lora, all_weights, lora_merged; or sft, dpo ...");
  invocation.flags.String("model", &model, "MODEL", "the base model");
  invocation.flags.String("dataset", &dataset, "DATASET", "the rows to learn from");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft job init [--method lora] [--model MODEL] [--dataset DATASET]\n\n"
                       "A job file with every field, its default and what it means, to be changed "
                       "and given to `graft job create -f`."));
  // People say "lora" for the method; the file tells method and tuning apart.
  v1::TuningSection tuning;
  const bool is_tuning = !method.empty() && client::SetField("type", method, tuning).ok();
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto schema, FetchSchema(*client, is_tuning ? "" : method));
  std::string text = WithLine(schema.example_yaml(), "model", "base", model);
  text = WithLine(std::move(text), "dataset", "training", dataset);
  if (is_tuning) text = WithLine(std::move(text), "tuning", "type", method);
  invocation.Write(text);
  return absl::OkStatus();
}

std::string EstimateTable(const Terminal& terminal, const v1::EstimateJobResponse& response) {
  const v1::Estimate& estimate = response.estimate();
  const v1::Estimate::Memory& memory = estimate.device_memory();
  Table table({"FIELD", "VALUE"});
  table.Add({"fits", response.fits() ? terminal.Paint(Style::kGreen, "yes")
                                     : terminal.Paint(Style::kRed, "no")});
  table.Add({"device memory",
             absl::StrCat(FormatBytes(memory.total()), ": weights ", FormatBytes(memory.weights()),
                          ", gradients ", FormatBytes(memory.gradients()), ", optimizer ",
                          FormatBytes(memory.optimizer()), ", activations ",
                          FormatBytes(memory.activations()), ", runtime ",
                          FormatBytes(memory.overhead()))});
  if (estimate.has_layout()) {
    const v1::Layout& layout = estimate.layout();
    table.Add({"layout",
               absl::StrCat("tp ", layout.tensor_parallel_size(), ", cp ",
                            layout.context_parallel_size(), ", dp ", layout.data_parallel_size(),
                            ", pp ", layout.pipeline_parallel_size())});
  }
  if (estimate.disk() > 0) table.Add({"disk", FormatBytes(estimate.disk())});
  if (estimate.steps() > 0) table.Add({"steps", absl::StrCat(estimate.steps())});
  if (estimate.step_seconds() > 0) {
    table.Add({"a step", absl::StrCat(FormatNumber(estimate.step_seconds()), " s, ",
                                      Sanitize(estimate.basis()))});
  }
  if (estimate.run_time().seconds() > 0) {
    table.Add({"run time", HumanDuration(absl::Seconds(estimate.run_time().seconds()))});
  }
  for (const v1::Warning& warning : response.warnings()) {
    table.Add({"warning", Sanitize(warning.message())});
  }
  return table.Render(terminal);
}

absl::Status EstimateJob(Invocation& invocation) {
  std::string file;
  std::vector<std::string> sets;
  invocation.flags.String("file", &file, "FILE", "the job file, YAML or JSON");
  invocation.flags.Short('f');
  invocation.flags.Strings("set", &sets, "PATH=VALUE", "a field of the spec");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(
      "graft job estimate -f FILE | graft job estimate MODEL [DATASET] [--set ...]"));
  v1::EstimateJobRequest request;
  if (!file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(const client::JobFile job, ReadJobFile(file));
    *request.mutable_spec() = job.job.spec();
  } else {
    GRAFT_ASSIGN_OR_RETURN(*request.mutable_spec()->mutable_model()->mutable_base(),
                           invocation.Word(0, "the MODEL, or -f FILE,"));
    if (invocation.word_count() > 1) {
      request.mutable_spec()->mutable_dataset()->add_training()->set_fileset(
          invocation.flags.words()[1]);
    }
  }
  GRAFT_RETURN_IF_ERROR(ApplySets(sets, *request.mutable_spec()));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  request.set_parent(client->workspace());
  MakeNamesWhole(*client, *request.mutable_spec());
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      client->Call<v1::EstimateJobResponse>(client->jobs(), &v1::JobService::Stub::EstimateJob,
                                            request, {.idempotent = true}));
  return invocation.Print(response, [&] { return EstimateTable(invocation.out, response); });
}

}  // namespace

const std::vector<Command>& JobCreateCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"lora", "train an adapter: MODEL DATASET", Lora},
      {"sft", "train all weights: MODEL DATASET", Sft},
      {"job init", "a commented job file to start from", InitJob},
      {"job create", "create a job from a file", CreateJob},
      {"job estimate", "memory, disk and time of a job that is not there yet", EstimateJob},
      {"job schema", "the fields of a job file, as a JSON schema", JobSchema},
  };
  return commands;
}

}  // namespace graft::cli
