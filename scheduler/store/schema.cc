#include "scheduler/store/schema.h"

#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::scheduler {
namespace {

constexpr absl::string_view kSchemaKey = "meta/schema";

}  // namespace

const std::vector<Migration>& Migrations() {
  static const auto* steps = new std::vector<Migration>();  // version 1 is the first
  return *steps;
}

absl::StatusOr<int> SchemaVersion(const Store& store) {
  const absl::StatusOr<Record> record = store.Get(Family::kRecords, kSchemaKey);
  if (absl::IsNotFound(record.status())) return 1;
  GRAFT_RETURN_IF_ERROR(record.status());
  int version = 0;
  if (!absl::SimpleAtoi(record->value, &version) || version < 1) {
    return absl::DataLossError(
        absl::StrCat("the store's schema version is '", record->value, "', which is none"));
  }
  return version;
}

absl::Status BringForward(Store& store, const std::vector<Migration>& steps) {
  GRAFT_ASSIGN_OR_RETURN(int version, SchemaVersion(store));
  const int ours = static_cast<int>(steps.size()) + 1;
  if (version > ours) {
    return absl::FailedPreconditionError(
        absl::StrCat("the store is of schema version ", version, ", this program knows up to ",
                     ours, "; use the program that wrote it, or a later one"));
  }
  for (; version < ours; ++version) {
    GRAFT_ASSIGN_OR_RETURN(Transaction step, steps[static_cast<size_t>(version) - 1](store));
    step.writes.push_back({Family::kRecords, std::string(kSchemaKey), absl::StrCat(version + 1)});
    GRAFT_RETURN_IF_ERROR(store.Commit(step).status());
  }
  return absl::OkStatus();
}

}  // namespace graft::scheduler
