#include "fileservice/service/settings.h"

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "rpc/config.h"

namespace graft::fileservice {
namespace {

absl::Status CheckNumber(const std::string& name, int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " must not be negative, it is ", value));
}

// No setting has a use for a number below zero.
absl::Status CheckNumbers(const Settings& settings) {
  const auto& type = *settings.GetDescriptor();
  const auto& reflection = *settings.GetReflection();
  for (int i = 0; i < type.field_count(); ++i) {
    const auto& field = *type.field(i);
    if (field.is_repeated() || field.cpp_type() != field.CPPTYPE_INT64) continue;
    GRAFT_RETURN_IF_ERROR(CheckNumber(field.name(), reflection.GetInt64(settings, &field)));
  }
  for (const auto& [workspace, bytes] : settings.quota_bytes()) {
    GRAFT_RETURN_IF_ERROR(CheckNumber(absl::StrCat("quota_bytes of ", workspace), bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadSettings(const std::vector<std::string>& arguments,
                                                      Settings& settings) {
  GRAFT_ASSIGN_OR_RETURN(std::vector<std::string> words, rpc::ReadArguments(arguments, settings));
  GRAFT_RETURN_IF_ERROR(CheckNumbers(settings));
  if (settings.data().empty()) {
    return absl::InvalidArgumentError("say where the store lies: --data DIR or --config FILE");
  }
  return words;
}

std::string IndexFolder(const Settings& settings) { return JoinPath(settings.data(), "index"); }

std::string PackFolder(const Settings& settings) { return JoinPath(settings.data(), "packs"); }

std::string WatermarkFolder(const Settings& settings) {
  return settings.watermark().empty() ? JoinPath(settings.data(), "watermark")
                                      : settings.watermark();
}

}  // namespace graft::fileservice
