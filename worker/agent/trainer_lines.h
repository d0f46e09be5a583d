// From the trainer's JSON lines to what the scheduler is told.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "graft/agent/v1/agent.pb.h"
#include "graft/v1/common.pb.h"
#include "graft/v1/job.pb.h"
#include "worker/trainer/events.h"

namespace graft::agent {

// Names of the metric rows that StepRow and EvalRow write; a row's indexes point into it.
const std::vector<std::string>& MetricNames();

v1::MetricRow StepRow(const trainer::StepEvent& step, int64_t time_ms);
v1::MetricRow EvalRow(const trainer::EvalEvent& eval, int64_t time_ms);
// For a person: a line that begins with "sample, step ".
std::string SampleText(const trainer::SampleEvent& sample);
// With the step, where it has one.
graft::v1::Warning WarningOf(const trainer::WarningEvent& warning);

// A line that a rank printed. What its own log writes for machines comes out as words and a
// severity; anything else as it is, of severity INFO.
struct Printed {
  graft::v1::LogEntry::Severity severity = graft::v1::LogEntry::SEVERITY_INFO;
  std::string text;
};
Printed ReadPrinted(const std::string& line);

// The reason that a failed run is reported under, and whether another attempt makes sense.
struct Failure {
  graft::v1::Reason reason = graft::v1::REASON_RANK_FAILED;
  bool retryable = true;
};
Failure FailureOf(trainer::ErrorCode code);

}  // namespace graft::agent
