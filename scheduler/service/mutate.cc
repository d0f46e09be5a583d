#include "scheduler/service/mutate.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace graft::scheduler {
namespace {

// What a method's verb has done to its resource. Verbs that ask for a change of state are not here:
// the change itself is told when it has come.
constexpr std::pair<absl::string_view, absl::string_view> kDone[] = {
    {"Create", "created"},       {"Update", "updated"}, {"Delete", "deleted"},
    {"Enable", "enabled"},       {"Fork", "created"},   {"Disable", "disabled"},
    {"Deprecate", "deprecated"}, {"Revoke", "revoked"}, {"Cordon", "cordoned"},
    {"Uncordon", "uncordoned"},  {"Drain", "draining"}};

}  // namespace

std::string KindOf(absl::string_view resource) {
  const std::vector<absl::string_view> parts = absl::StrSplit(resource, '/');
  if (parts.size() < 2 || parts.size() % 2 != 0) return "";
  absl::string_view kind = parts[parts.size() - 2];
  if (kind == "versions" && parts.size() > 2) return "templateVersion";
  return std::string(absl::EndsWith(kind, "s") ? kind.substr(0, kind.size() - 1) : kind);
}

void TellOfCall(Turn& turn, const rpc::Call& call, absl::string_view resource,
                absl::string_view message) {
  const absl::string_view method = absl::string_view(call.method).substr(call.method.find('/') + 1);
  const std::string kind = KindOf(resource);
  if (kind.empty()) return;
  for (const auto& [verb, done] : kDone) {
    const bool fits = absl::StartsWith(method, verb) && method.size() > verb.size() &&
                      absl::ascii_isupper(method[verb.size()]);
    if (!fits) continue;
    turn.Emit({.type = absl::StrCat(kind, ".", done),
               .resource = std::string(resource),
               .actor = call.identity->subject,
               .message = std::string(message)});
    return;
  }
}

void AuditCall(Turn& turn, const rpc::Call& call, absl::string_view resource,
               absl::string_view text) {
  turn.Audit({.principal = call.identity->subject,
              .method = call.method,
              .resource = std::string(resource),
              .text = std::string(text),
              .request_id = call.request_id});
  TellOfCall(turn, call, resource, text);
}

}  // namespace graft::scheduler
