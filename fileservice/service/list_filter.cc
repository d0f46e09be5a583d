#include "fileservice/service/list_filter.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "graft/v1/fileset.pb.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using rpc::FilterType;
using rpc::FilterValue;

std::vector<FilterValue> LabelValue(const Labels& labels, absl::string_view field) {
  for (const auto& [key, value] : labels) {
    if (absl::StrCat("labels.", key) == field) return {FilterValue(value)};
  }
  return {};
}

FilterValue TimeValue(int64_t ms) { return absl::FromUnixMillis(ms); }

std::vector<FilterValue> FieldOf(const FilesetRecord& record, absl::string_view field) {
  if (field == "name") return {FilterValue(record.name)};
  if (field == "project") return {FilterValue(record.project)};
  if (field == "creator") return {FilterValue(record.creator)};
  if (field == "create_time") return {TimeValue(record.create_time_ms)};
  if (field == "update_time") return {TimeValue(record.update_time_ms)};
  if (field == "purpose") {
    const std::string full =
        v1::FileSetPurpose_Name(static_cast<v1::FileSetPurpose>(record.purpose));
    return {FilterValue(std::string(absl::StripPrefix(full, "FILE_SET_PURPOSE_")))};
  }
  return LabelValue(record.labels, field);
}

std::vector<FilterValue> FieldOf(const VersionRecord& record, const std::vector<Ref>& refs,
                                 absl::string_view field) {
  if (field == "creator") return {FilterValue(record.creator)};
  if (field == "create_time") return {TimeValue(record.create_time_ms)};
  if (field == "refs") {
    std::vector<FilterValue> values;
    for (const Ref& ref : refs) {
      if (ref.version == record.number) values.emplace_back(ref.name);
    }
    return values;
  }
  return LabelValue(record.labels, field);
}

// Numbers of one width, so that they compare as text.
std::string Sortable(int64_t value) { return absl::StrFormat("%020d", value); }

}  // namespace

absl::StatusOr<std::function<bool(const FilesetRecord&)>> ParseFilesetFilter(
    absl::string_view text) {
  static const rpc::FilterSchema& schema = *new rpc::FilterSchema{
      {"name", FilterType::kString},      {"purpose", FilterType::kString},
      {"project", FilterType::kString},   {"creator", FilterType::kString},
      {"labels.*", FilterType::kString},  {"create_time", FilterType::kTime},
      {"update_time", FilterType::kTime},
  };
  GRAFT_ASSIGN_OR_RETURN(const rpc::Filter filter, rpc::Filter::Parse(text, schema));
  return [filter](const FilesetRecord& record) {
    return filter.Matches([&](absl::string_view field) { return FieldOf(record, field); });
  };
}

absl::StatusOr<std::function<bool(const VersionRecord&)>> ParseVersionFilter(
    absl::string_view text, std::vector<Ref> refs) {
  static const rpc::FilterSchema& schema = *new rpc::FilterSchema{
      {"creator", FilterType::kString},
      {"labels.*", FilterType::kString},
      {"refs", FilterType::kString},
      {"create_time", FilterType::kTime},
  };
  GRAFT_ASSIGN_OR_RETURN(const rpc::Filter filter, rpc::Filter::Parse(text, schema));
  return [filter, refs = std::move(refs)](const VersionRecord& record) {
    return filter.Matches([&](absl::string_view field) { return FieldOf(record, refs, field); });
  };
}

absl::StatusOr<FilesetOrder> ParseFilesetOrder(absl::string_view text) {
  FilesetOrder order;
  order.descending = absl::ConsumeSuffix(&text, " desc");
  if (text.empty() || text == "name") {
    if (!order.descending) return order;
    order.key = [](const FilesetRecord&) { return std::string(); };
    return order;
  }
  int64_t FilesetRecord::*field = nullptr;
  if (text == "create_time") field = &FilesetRecord::create_time_ms;
  if (text == "update_time") field = &FilesetRecord::update_time_ms;
  if (text == "logical_bytes") field = &FilesetRecord::logical_bytes;
  if (field == nullptr) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "the list cannot be ordered so")
        .Reason("FIELD_INVALID")
        .Field("order_by",
               "one of name, create_time, update_time, logical_bytes, with ` desc` or not")
        .Build();
  }
  order.key = [field](const FilesetRecord& record) { return Sortable(record.*field); };
  return order;
}

}  // namespace graft::fileservice
