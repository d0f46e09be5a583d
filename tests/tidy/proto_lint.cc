#include "tests/tidy/proto_lint.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "google/api/field_behavior.pb.h"
#include "google/api/resource.pb.h"
#include "graft/v1/options.pb.h"

namespace graft::tidy {
namespace {

namespace pb = google::protobuf;

// Answers secrets that are shown once, so that a repeated call must not answer the same again.
constexpr absl::string_view kCreatesWithoutRequestId[] = {"graft.v1.AccessService.CreateToken",
                                                          "graft.v1.NodeService.CreateJoinToken"};
// Opening and closing a queue is an administrator's setting, not a life cycle.
constexpr absl::string_view kWritableStates[] = {"graft.v1.Queue.state"};
constexpr absl::string_view kForbiddenFields[] = {"trust_remote_code"};

template <typename Range>
bool Has(const Range& range, absl::string_view value) {
  return std::find(std::begin(range), std::end(range), value) != std::end(range);
}

// HTTPServer -> HTTP_SERVER, JobState -> JOB_STATE.
std::string UpperSnake(absl::string_view camel) {
  std::string out;
  for (size_t i = 0; i < camel.size(); ++i) {
    const bool upper = absl::ascii_isupper(camel[i]);
    if (upper && i > 0 &&
        (!absl::ascii_isupper(camel[i - 1]) ||
         (i + 1 < camel.size() && absl::ascii_islower(camel[i + 1])))) {
      out += '_';
    }
    out += absl::ascii_toupper(camel[i]);
  }
  return out;
}

bool IsSnake(absl::string_view name) {
  return !name.empty() && absl::ascii_islower(name[0]) &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '_';
         });
}

bool IsCamel(absl::string_view name) {
  return !name.empty() && absl::ascii_isupper(name[0]) &&
         std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isalnum(c); });
}

// Whether the request says which resource a method of workspace scope is about.
bool NamesResource(const pb::Descriptor& request, const v1::Access& access) {
  if (!access.resource().empty()) return request.FindFieldByName(access.resource()) != nullptr;
  for (const char* name : {"parent", "name", "workspace"}) {
    if (request.FindFieldByName(name) != nullptr) return true;
  }
  for (int i = 0; i < request.field_count(); ++i) {
    const pb::Descriptor* carried = request.field(i)->message_type();
    if (carried != nullptr && carried->FindFieldByName("name") != nullptr) return true;
  }
  return false;
}

class Linter {
 public:
  void File(const pb::FileDescriptor& file) {
    file_ = &file;
    if (!absl::StrContains(file.options().go_package(), ';')) {
      findings_.push_back(absl::StrCat(file.name(), ": has no go_package with a package name"));
    }
    for (int i = 0; i < file.message_type_count(); ++i) Message(*file.message_type(i));
    for (int i = 0; i < file.enum_type_count(); ++i) Enum(*file.enum_type(i));
    for (int i = 0; i < file.extension_count(); ++i) Comment(*file.extension(i));
    for (int i = 0; i < file.service_count(); ++i) Service(*file.service(i));
  }

  std::vector<std::string> Take() { return std::move(findings_); }

 private:
  template <typename T>
  void Find(const T& what, absl::string_view finding) {
    pb::SourceLocation at;
    const int line = what.GetSourceLocation(&at) ? at.start_line + 1 : 0;
    findings_.push_back(
        absl::StrCat(file_->name(), ":", line, ": ", what.full_name(), ": ", finding));
  }

  // The comment before `what`, as one line.
  template <typename T>
  std::string Comment(const T& what) {
    pb::SourceLocation at;
    std::string text;
    if (what.GetSourceLocation(&at)) text = at.leading_comments;
    absl::RemoveExtraAsciiWhitespace(&text);
    if (text.empty()) Find(what, "has no comment");
    return text;
  }

  void Message(const pb::Descriptor& message) {
    if (message.options().map_entry()) return;
    Comment(message);
    if (!IsCamel(message.name())) Find(message, "a message's name is CamelCase");
    for (int i = 0; i < message.field_count(); ++i) Field(*message.field(i));
    for (int i = 0; i < message.real_oneof_decl_count(); ++i) Comment(*message.oneof_decl(i));
    for (int i = 0; i < message.enum_type_count(); ++i) Enum(*message.enum_type(i));
    for (int i = 0; i < message.nested_type_count(); ++i) Message(*message.nested_type(i));
    Resource(message);
  }

  static bool Behaves(const pb::FieldDescriptor& field, google::api::FieldBehavior behavior) {
    const pb::FieldOptions& options = field.options();
    for (int i = 0; i < options.ExtensionSize(google::api::field_behavior); ++i) {
      if (options.GetExtension(google::api::field_behavior, i) == behavior) return true;
    }
    return false;
  }

  void Resource(const pb::Descriptor& message) {
    const pb::FieldDescriptor* name = message.FindFieldByName("name");
    const bool identified = name != nullptr && Behaves(*name, google::api::IDENTIFIER);
    const auto& resource = message.options().GetExtension(google::api::resource);
    if (resource.type().empty()) {
      if (identified) Find(message, "has an identifier and no google.api.resource");
      return;
    }
    if (resource.type() != absl::StrCat("graft.dev/", message.name())) {
      Find(message, "the resource type is graft.dev/ and the message's name");
    }
    if (resource.pattern_size() == 0) Find(message, "the resource has no pattern");
    if (resource.plural().empty() || resource.singular().empty()) {
      Find(message, "the resource has no plural or singular");
    }
    if (!identified || name->number() != 1) {
      Find(message, "field 1 of a resource is its name, marked IDENTIFIER");
    }
    const pb::FieldDescriptor* state = message.FindFieldByName("state");
    if (state != nullptr && !Behaves(*state, google::api::OUTPUT_ONLY) &&
        !Has(kWritableStates, state->full_name())) {
      Find(*state, "a state is OUTPUT_ONLY and changed by verbs");
    }
  }

  void Field(const pb::FieldDescriptor& field) {
    const std::string comment = Comment(field);
    if (!IsSnake(field.name())) Find(field, "a field's name is lower_snake_case");
    if (Has(kForbiddenFields, field.name())) Find(field, "Graft runs no code from checkpoints");
    if (field.name() == "data" && field.type() == pb::FieldDescriptor::TYPE_BYTES) {
      const pb::Descriptor& message = *field.containing_type();
      for (int i = 0; i < message.field_count(); ++i) {
        if (message.field(i)->number() > field.number()) {
          Find(field, "the payload has the greatest number, so that it can be appended");
        }
      }
    }
    if (field.options().HasExtension(v1::rule)) Rule(field, comment);
  }

  void Rule(const pb::FieldDescriptor& field, absl::string_view comment) {
    const v1::FieldRule& rule = field.options().GetExtension(v1::rule);
    if (!field.has_presence()) Find(field, "a field with a rule is `optional`");
    const std::string& value = rule.default_value();
    if (value.empty()) return;
    absl::string_view shown = value;
    std::string wanted;
    if (absl::ConsumePrefix(&shown, "\"") && absl::ConsumeSuffix(&shown, "\"")) {
      wanted = absl::StrCat("Default `", shown, "`");
    } else if (field.enum_type() != nullptr) {
      if (field.enum_type()->FindValueByName(value) == nullptr) {
        Find(field, absl::StrCat("its default ", value, " is no value of its enum"));
      }
      shown = value;
      absl::ConsumePrefix(&shown, absl::StrCat(UpperSnake(field.enum_type()->name()), "_"));
      wanted = absl::StrCat("Default ", shown);
    } else {
      wanted = absl::StrCat("Default ", value);
      double number = 0;
      if (absl::SimpleAtod(value, &number) &&
          ((rule.has_min() && number < rule.min()) || (rule.has_max() && number > rule.max()))) {
        Find(field, absl::StrCat("its default ", value, " is out of its range"));
      }
    }
    if (!absl::StrContains(comment, wanted)) {
      Find(field, absl::StrCat("its comment does not say \"", wanted, "\""));
    }
  }

  void Enum(const pb::EnumDescriptor& type) {
    Comment(type);
    const std::string prefix = absl::StrCat(UpperSnake(type.name()), "_");
    for (int i = 0; i < type.value_count(); ++i) {
      const pb::EnumValueDescriptor& value = *type.value(i);
      Comment(value);
      if (!absl::StartsWith(value.name(), prefix)) {
        Find(value, absl::StrCat("its name begins with ", prefix));
      }
    }
    if (type.value(0)->number() != 0 || type.value(0)->name() != prefix + "UNSPECIFIED") {
      Find(type, absl::StrCat("its first value is ", prefix, "UNSPECIFIED = 0"));
    }
  }

  void Service(const pb::ServiceDescriptor& service) {
    Comment(service);
    if (!absl::EndsWith(service.name(), "Service")) Find(service, "its name ends with Service");
    for (int i = 0; i < service.method_count(); ++i) Method(*service.method(i));
  }

  void Method(const pb::MethodDescriptor& method) {
    Comment(method);
    const v1::Access& access = method.options().GetExtension(v1::access);
    const bool needs_role = access.scope() == v1::Access::SCOPE_WORKSPACE ||
                            access.scope() == v1::Access::SCOPE_CLUSTER;
    if (access.scope() == v1::Access::SCOPE_UNSPECIFIED) {
      Find(method, "says nothing of who may call it (option access)");
    } else if (needs_role != (access.role() != v1::ROLE_UNSPECIFIED)) {
      Find(method, "a role stands with the scopes WORKSPACE and CLUSTER and with no other");
    }
    if (access.scope() == v1::Access::SCOPE_WORKSPACE && !method.client_streaming() &&
        !NamesResource(*method.input_type(), access)) {
      Find(method, "its request names no resource; say the field in access.resource");
    }
    if (method.input_type()->name() != method.name() + "Request") {
      Find(method, absl::StrCat("its request is named ", method.name(), "Request"));
    }
    if (absl::StartsWith(method.name(), "Create") &&
        method.input_type()->FindFieldByName("request_id") == nullptr &&
        !Has(kCreatesWithoutRequestId, method.full_name())) {
      Find(method, "a create takes a request_id");
    }
    if (absl::StartsWith(method.name(), "List")) {
      const pb::Descriptor& in = *method.input_type();
      if (in.FindFieldByName("page_size") == nullptr ||
          in.FindFieldByName("page_token") == nullptr ||
          method.output_type()->FindFieldByName("next_page_token") == nullptr) {
        Find(method, "a list has page_size, page_token and next_page_token");
      }
    }
    if (absl::StartsWith(method.name(), "Update") &&
        method.input_type()->FindFieldByName("update_mask") == nullptr) {
      Find(method, "an update takes an update_mask");
    }
  }

  const pb::FileDescriptor* file_ = nullptr;
  std::vector<std::string> findings_;
};

}  // namespace

absl::StatusOr<pb::FileDescriptorSet> ReadDescriptorSet(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  pb::FileDescriptorSet set;
  if (!set.ParseFromString(bytes)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no descriptor set"));
  }
  return set;
}

Contract::Contract(const pb::FileDescriptorSet& set)
    : pool_(std::make_unique<pb::DescriptorPool>()) {
  for (const pb::FileDescriptorProto& proto : set.file()) {
    const pb::FileDescriptor* file = pool_->BuildFile(proto);
    GRAFT_CHECK(file != nullptr);
    if (proto.package() == "graft" || absl::StartsWith(proto.package(), "graft.")) {
      files_.push_back(file);
    }
  }
}

std::vector<std::string> LintContract(const pb::FileDescriptorSet& set) {
  const Contract contract(set);
  Linter linter;
  for (const pb::FileDescriptor* file : contract.files()) linter.File(*file);
  return linter.Take();
}

}  // namespace graft::tidy
