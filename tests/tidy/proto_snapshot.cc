#include "tests/tidy/proto_snapshot.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tests/tidy/proto_lint.h"

namespace graft::tidy {
namespace {

namespace pb = google::protobuf;

// Largest range of reserved numbers that is written out number by number.
constexpr int kMaxReservedRange = 1000;

class Recorder {
 public:
  void File(const pb::FileDescriptor& file) {
    for (int i = 0; i < file.message_type_count(); ++i) Message(*file.message_type(i));
    for (int i = 0; i < file.enum_type_count(); ++i) Enum(*file.enum_type(i));
    for (int i = 0; i < file.extension_count(); ++i) Field("extension", *file.extension(i));
    for (int i = 0; i < file.service_count(); ++i) Service(*file.service(i));
  }

  Snapshot Take() { return std::move(lines_); }

 private:
  static std::string TypeOf(const pb::FieldDescriptor& field) {
    if (field.is_map()) {
      const pb::Descriptor& entry = *field.message_type();
      return absl::StrCat("map<", TypeOf(*entry.field(0)), ",", TypeOf(*entry.field(1)), ">");
    }
    std::string type = field.type_name();
    if (field.message_type() != nullptr) type = field.message_type()->full_name();
    if (field.enum_type() != nullptr) type = field.enum_type()->full_name();
    if (field.is_repeated()) return absl::StrCat("repeated:", type);
    if (field.real_containing_oneof() != nullptr) {
      return absl::StrCat("oneof:", field.real_containing_oneof()->name(), ":", type);
    }
    return field.has_optional_keyword() ? absl::StrCat("optional:", type) : type;
  }

  void Field(absl::string_view kind, const pb::FieldDescriptor& field) {
    lines_.insert(absl::StrCat(kind, " ", field.containing_type()->full_name(), " ", field.number(),
                               " ", field.name(), " ", field.json_name(), " ", TypeOf(field)));
  }

  void Message(const pb::Descriptor& message) {
    if (message.options().map_entry()) return;
    lines_.insert(absl::StrCat("message ", message.full_name()));
    for (int i = 0; i < message.field_count(); ++i) Field("field", *message.field(i));
    for (int i = 0; i < message.reserved_range_count(); ++i) {
      const auto& range = *message.reserved_range(i);
      Reserve(message.full_name(), range.start, range.end - 1);
    }
    for (int i = 0; i < message.reserved_name_count(); ++i) {
      lines_.insert(
          absl::StrCat("reserved-name ", message.full_name(), " ", message.reserved_name(i)));
    }
    for (int i = 0; i < message.enum_type_count(); ++i) Enum(*message.enum_type(i));
    for (int i = 0; i < message.nested_type_count(); ++i) Message(*message.nested_type(i));
  }

  void Enum(const pb::EnumDescriptor& type) {
    lines_.insert(absl::StrCat("enum ", type.full_name()));
    for (int i = 0; i < type.value_count(); ++i) {
      lines_.insert(absl::StrCat("value ", type.full_name(), " ", type.value(i)->number(), " ",
                                 type.value(i)->name()));
    }
    for (int i = 0; i < type.reserved_range_count(); ++i) {
      Reserve(type.full_name(), type.reserved_range(i)->start, type.reserved_range(i)->end);
    }
    for (int i = 0; i < type.reserved_name_count(); ++i) {
      lines_.insert(absl::StrCat("reserved-name ", type.full_name(), " ", type.reserved_name(i)));
    }
  }

  void Reserve(absl::string_view where, int first, int last) {
    for (int n = first; n <= last && n - first < kMaxReservedRange; ++n) {
      lines_.insert(absl::StrCat("reserved-number ", where, " ", n));
    }
  }

  void Service(const pb::ServiceDescriptor& service) {
    for (int i = 0; i < service.method_count(); ++i) {
      const pb::MethodDescriptor& method = *service.method(i);
      lines_.insert(absl::StrCat(
          "method ", method.full_name(), " ", method.client_streaming() ? "stream:" : "",
          method.input_type()->full_name(), " ", method.server_streaming() ? "stream:" : "",
          method.output_type()->full_name()));
    }
  }

  Snapshot lines_;
};

// Whether the field or value of `line` went in order: its number and its name are reserved now.
bool IsReserved(const std::string& line, const Snapshot& now) {
  const std::vector<std::string> parts = absl::StrSplit(line, ' ');
  if (parts.size() < 4 || (parts[0] != "field" && parts[0] != "value")) return false;
  return now.contains(absl::StrCat("reserved-number ", parts[1], " ", parts[2])) &&
         now.contains(absl::StrCat("reserved-name ", parts[1], " ", parts[3]));
}

}  // namespace

Snapshot TakeSnapshot(const pb::FileDescriptorSet& set) {
  const Contract contract(set);
  Recorder recorder;
  for (const pb::FileDescriptor* file : contract.files()) recorder.File(*file);
  return recorder.Take();
}

Snapshot ParseSnapshot(const std::string& text) {
  return Snapshot(absl::StrSplit(text, '\n', absl::SkipEmpty()));
}

std::string FormatSnapshot(const Snapshot& snapshot) {
  return absl::StrCat(absl::StrJoin(snapshot, "\n"), "\n");
}

std::vector<std::string> Breaks(const Snapshot& before, const Snapshot& now) {
  std::vector<std::string> breaks;
  for (const std::string& line : before) {
    if (!now.contains(line) && !IsReserved(line, now)) breaks.push_back(line);
  }
  return breaks;
}

std::vector<std::string> Additions(const Snapshot& before, const Snapshot& now) {
  std::vector<std::string> additions;
  for (const std::string& line : now) {
    if (!before.contains(line)) additions.push_back(line);
  }
  return additions;
}

}  // namespace graft::tidy
