// graft-validate: reads the rows of a run on the CPU, before any device is taken.
//
//   graft-validate --validate run.json
//
// One line on standard output: `findings`, or `error` with exit status 1.
#include <cstdio>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "worker/trainer/check_data.h"
#include "worker/trainer/events.h"

namespace graft::trainer {
namespace {

ErrorCode CodeOf(const absl::Status& status) {
  if (absl::IsUnimplemented(status)) return ErrorCode::kUnimplemented;
  if (absl::IsInvalidArgument(status) || absl::IsNotFound(status)) {
    return ErrorCode::kInvalidDataset;
  }
  return ErrorCode::kInternal;
}

int Fail(ErrorCode code, const absl::Status& status) {
  const ErrorEvent error{.code = code, .message = std::string(status.message())};
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  std::printf("%s\n", FormatEvent(error, now).c_str());
  return 1;
}

int Validate(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxRunConfigBytes);
  if (!text.ok()) return Fail(ErrorCode::kInvalidConfig, text.status());
  const absl::StatusOr<RunConfig> config = ParseRunConfig(*text);
  if (!config.ok()) return Fail(ErrorCode::kInvalidConfig, config.status());
  const absl::StatusOr<Findings> findings = CheckData(*config);
  if (!findings.ok()) return Fail(CodeOf(findings.status()), findings.status());
  std::printf("%s\n", FormatFindings(*findings).c_str());
  return 0;
}

}  // namespace
}  // namespace graft::trainer

int main(int argc, char** argv) {
  graft::ConfigureLog(graft::LogLevel::kInfo, graft::LogFormat::kAuto, "graft-validate");
  if (argc != 3 || absl::string_view(argv[1]) != "--validate") {
    std::fputs("usage: graft-validate --validate run.json\n", stderr);
    return 2;
  }
  return graft::trainer::Validate(argv[2]);
}
