// graft-trainer-rank: one rank of a training run, or a generator of answers. launcher.cc starts it
// as graft-trainer.
//
//   graft-trainer --run run.json
//   graft-trainer --generate --model FOLDER|FILE.gguf [--adapter FOLDER] [--weights auto|fp32|bf16]
//                 [--threads N] [--chat-template FILE]
#include <c10/util/Logging.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "worker/trainer/compute_device.h"
#include "worker/trainer/control.h"
#include "worker/trainer/event_writer.h"
#include "worker/trainer/generate_server.h"
#include "worker/trainer/step_loop.h"

namespace graft::trainer {
namespace {

constexpr char kUsage[] =
    "usage: graft-trainer --run run.json\n"
    "       graft-trainer --generate --model FOLDER|FILE.gguf [--adapter FOLDER]\n"
    "                     [--weights auto|fp32|bf16] [--threads N] [--chat-template FILE]\n";
constexpr int64_t kMaxTemplateBytes = 1 << 20;
constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

int RunMain(const std::string& path, const model::Accelerator* accelerator) {
  RealClock clock;
  absl::StatusOr<std::string> text = ReadFile(path, kMaxRunConfigBytes);
  absl::StatusOr<RunConfig> config =
      text.ok() ? ParseRunConfig(*text) : absl::StatusOr<RunConfig>(text.status());
  const int fd = config.ok() ? static_cast<int>(config->events_fd) : STDOUT_FILENO;
  EventWriter events(fd, clock);
  if (!config.ok()) {
    events.Write(ErrorEvent{ErrorCode::kInvalidConfig, std::string(config.status().message()),
                            "mend run.json", 0});
    events.Close();
    LOG_ERROR("run.json is refused", {{"path", path}, {"why", config.status().message()}});
    return kExitFailed;
  }
  Control control(isatty(STDIN_FILENO) ? -1 : STDIN_FILENO);
  const absl::Status status = Run(*config, control, events, clock, accelerator);
  events.Close();
  if (!status.ok()) LOG_ERROR("the run failed", {{"why", status.ToString()}});
  return status.ok() ? 0 : kExitFailed;
}

int GenerateMain(const std::vector<std::string>& args) {
  GenerateOptions options;
  for (size_t i = 0; i + 1 < args.size(); i += 2) {
    const std::string& value = args[i + 1];
    if (args[i] == "--model") {
      options.model = value;
    } else if (args[i] == "--adapter") {
      options.adapter = value;
    } else if (args[i] == "--chat-template") {
      absl::StatusOr<std::string> text = ReadFile(value, kMaxTemplateBytes);
      if (!text.ok()) {
        std::fprintf(stderr, "graft-trainer: %s\n", text.status().ToString().c_str());
        return kExitUsage;
      }
      options.chat_template = *std::move(text);
    } else if (args[i] == "--weights" && value == "fp32") {
      options.weights = WeightsType::kFp32;
    } else if (args[i] == "--weights" && value == "bf16") {
      options.weights = WeightsType::kBf16;
    } else if (args[i] == "--weights" && value == "auto") {
      options.weights = WeightsType::kAuto;
    } else if (args[i] != "--threads" || !absl::SimpleAtoi(value, &options.threads)) {
      std::fprintf(stderr, "graft-trainer: %s %s is not understood\n%s", args[i].c_str(),
                   value.c_str(), kUsage);
      return kExitUsage;
    }
  }
  if (options.model.empty() || args.size() % 2 != 0) {
    std::fputs(kUsage, stderr);
    return kExitUsage;
  }
  const absl::Status status = ServeGenerate(options);
  if (!status.ok()) LOG_ERROR("cannot generate", {{"why", status.ToString()}});
  return status.ok() ? 0 : kExitFailed;
}

// torch warns of a connection's end with a stack of frames for every try; what it means for the
// run, the ranks say themselves. TORCH_CPP_LOG_LEVEL asks for more.
void QuietTorch() {
  FLAGS_caffe2_log_level = c10::GLOG_ERROR;
  c10::initLogging();
}

int Main(const std::vector<std::string>& args) {
  ConfigureLog(LogLevel::kInfo, LogFormat::kAuto, "graft-trainer");
  QuietTorch();
  const model::Accelerator* accelerator = LoadAccelerator();
  // MKL picks its code by the processor; without this the bits of a product may differ between two
  // runs of the same machine. An administrator's own setting stands.
  setenv("MKL_CBWR", "AUTO,STRICT", 0);
  if (args.size() == 2 && args[0] == "--run") return RunMain(args[1], accelerator);
  if (!args.empty() && args[0] == "--generate") {
    return GenerateMain(std::vector<std::string>(args.begin() + 1, args.end()));
  }
  if (!args.empty() && (args[0] == "--help" || args[0] == "-h")) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  std::fputs(kUsage, stderr);
  return kExitUsage;
}

}  // namespace
}  // namespace graft::trainer

int main(int argc, char** argv) {
  return graft::trainer::Main(std::vector<std::string>(argv + 1, argv + argc));
}
