#include "scheduler/service/references.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/descriptor.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

bool IsOrIsBelow(absl::string_view text, absl::string_view name) {
  return absl::StartsWith(text, name) && (text.size() == name.size() || text[name.size()] == '/');
}

}  // namespace

std::vector<std::string> LiveJobsThat(Turn& turn, const std::function<bool(const v1::Job&)>& uses) {
  std::vector<std::string> names;
  for (const auto& [key, job] : turn.core().jobs()) {
    if (IsTerminal(job.state)) continue;
    const std::vector<std::string> ids = absl::StrSplit(key, '/');
    const auto body = ReadResource<v1::Job>(turn, JobRecordKey(ids[0], ids[1]), key);
    if (body.ok() && uses(*body)) names.push_back(body->name());
  }
  return names;
}

bool Mentions(const Message& message, absl::string_view name) {
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string text = field->is_repeated()
                                     ? reflection.GetRepeatedString(message, field, i)
                                     : reflection.GetString(message, field);
        if (IsOrIsBelow(text, name)) return true;
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        const Message& inner = field->is_repeated()
                                   ? reflection.GetRepeatedMessage(message, field, i)
                                   : reflection.GetMessage(message, field);
        if (Mentions(inner, name)) return true;
      }
    }
  }
  return false;
}

absl::Status InUse(absl::string_view name, const std::vector<std::string>& holders) {
  const size_t shown = std::min(holders.size(), kMaxHolders);
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                           absl::StrCat(name, " is used by ", holders[0],
                                        holders.size() > 1 ? " and others" : ""))
      .Reason("RESOURCE_IN_USE")
      .Metadata("resource", name)
      .Metadata("holders",
                absl::StrJoin(holders.begin(), holders.begin() + static_cast<long>(shown), ","))
      .Build();
}

}  // namespace graft::scheduler
