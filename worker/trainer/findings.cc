#include "worker/trainer/findings.h"

#include "base/status_macros.h"

namespace graft::trainer {

template <typename V>
void VisitFields(V& v, FindingsWarning& w) {
  v("code", w.code);
  v("message", w.message);
}

template <typename V>
void VisitFields(V& v, Findings& f) {
  v("version", f.version);
  v("format", f.format);
  v("training_rows", f.training_rows);
  v("validation_rows", f.validation_rows);
  v("tokens", f.tokens);
  v("supervised_tokens", f.supervised_tokens);
  v("truncated_rows", f.truncated_rows);
  v("truncated_tokens", f.truncated_tokens);
  v("skipped_rows", f.skipped_rows);
  v("empty_rows", f.empty_rows);
  v("longest_row", f.longest_row);
  v("max_seq_length", f.max_seq_length);
  v("steps", f.steps);
  v("unpacked_steps", f.unpacked_steps);
  v("passes", f.passes);
  v("unpacked_passes", f.unpacked_passes);
  v("warnings", f.warnings);
}

std::string FormatFindings(const Findings& findings) {
  Json line = Json::MakeObject();
  line.Set("event", "findings");
  const Json fields = WriteFields(findings);
  for (const auto& [key, value] : fields.as_object()) line.Set(key, value);
  return line.Dump();
}

absl::StatusOr<Findings> ParseFindings(absl::string_view line) {
  const absl::StatusOr<Json> json = Json::Parse(line);
  if (!json.ok() || !json->is_object() || json->GetString("event") != "findings") {
    return absl::NotFoundError("the line holds no findings");
  }
  if (json->GetInt("version") != kFindingsVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the validator speaks version ",
                                                      json->GetInt("version"),
                                                      " of its findings, not ", kFindingsVersion));
  }
  Findings findings;
  GRAFT_RETURN_IF_ERROR(ReadFields(*json, "", findings, UnknownKeys::kIgnored));
  return findings;
}

}  // namespace graft::trainer
