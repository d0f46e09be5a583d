#include "tests/tidy/proto_lint.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "gmock/gmock.h"
#include "google/protobuf/compiler/parser.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "graft/v1/options.pb.h"
#include "gtest/gtest.h"
#include "tests/tidy/proto_snapshot.h"

namespace graft::tidy {
namespace {

namespace pb = google::protobuf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "." : value;
}

pb::FileDescriptorSet TheContract() {
  auto set = ReadDescriptorSet(absl::StrCat(FromEnvironment("GRAFT_BINARY_DIR"), "/contract.desc"));
  EXPECT_TRUE(set.ok()) << set.status();
  return set.ok() ? *set : pb::FileDescriptorSet();
}

Snapshot StoredSnapshot() {
  auto text =
      ReadFile(absl::StrCat(FromEnvironment("GRAFT_SOURCE_DIR"), "/tests/tidy/api.snapshot"));
  EXPECT_TRUE(text.ok()) << text.status();
  return ParseSnapshot(text.ok() ? *text : "");
}

// The contract with one more file, `text`, whose header is given here.
pb::FileDescriptorSet Extended(const std::string& text) {
  const std::string source = absl::StrCat(R"(syntax = "proto3";
package graft.test;
import "google/api/field_behavior.proto";
import "google/api/resource.proto";
import "graft/v1/options.proto";
option go_package = "graft.dev/test;test";
)",
                                          text);
  pb::io::ArrayInputStream stream(source.data(), static_cast<int>(source.size()));
  pb::io::Tokenizer tokenizer(&stream, nullptr);
  pb::compiler::Parser parser;
  pb::FileDescriptorProto file;
  EXPECT_TRUE(parser.Parse(&tokenizer, &file)) << source;
  file.set_name("test.proto");
  pb::FileDescriptorSet set = TheContract();
  pb::DescriptorPool pool;
  for (const auto& part : set.file()) pool.BuildFile(part);
  const pb::FileDescriptor* built = pool.BuildFile(file);  // interprets the options
  EXPECT_NE(built, nullptr) << source;
  if (built == nullptr) return set;
  pb::FileDescriptorProto linked;
  built->CopyTo(&linked);
  built->CopySourceCodeInfoTo(&linked);
  built->CopyJsonNameTo(&linked);
  *set.add_file() = linked;
  // Read again, so that options meet the extensions that are linked in.
  pb::FileDescriptorSet again;
  EXPECT_TRUE(again.ParseFromString(set.SerializeAsString()));
  return again;
}

constexpr char kGood[] = R"(
// A thing.
message Thing {
  option (google.api.resource) = {
    type: "graft.dev/Thing" pattern: "things/{thing}" plural: "things" singular: "thing"
  };
  // Where it is.
  enum State {
    // Never sent.
    STATE_UNSPECIFIED = 0;
    // There.
    STATE_THERE = 1;
  }
  // The name.
  string name = 1 [(google.api.field_behavior) = IDENTIFIER];
  // Where it is.
  State state = 2 [(google.api.field_behavior) = OUTPUT_ONLY];
  // How big. Default 16.
  optional int32 size = 3 [(graft.v1.rule) = {default_value: "16", min: 1}];
}
// Asks for a thing.
message GetThingRequest {
  // The thing.
  string name = 1;
}
// Things.
service ThingService {
  // Answers a thing. NOT_FOUND.
  rpc GetThing(GetThingRequest) returns (Thing) {
    option (graft.v1.access) = {scope: SCOPE_CLUSTER, role: ROLE_VIEWER};
  }
}
)";

// The findings on kGood after `from` was replaced by `to`.
std::vector<std::string> FindingsAfter(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(kGood, {{from, to}});
  EXPECT_NE(text, kGood) << "nothing was replaced";
  return LintContract(Extended(text));
}

TEST(ContractTest, KeepsItsRules) { EXPECT_THAT(LintContract(TheContract()), IsEmpty()); }

TEST(ContractTest, BreaksNothingOfTheStoredSnapshot) {
  EXPECT_THAT(Breaks(StoredSnapshot(), TakeSnapshot(TheContract())), IsEmpty());
}

TEST(ContractTest, EveryAdditionIsInTheSnapshot) {
  EXPECT_THAT(Additions(StoredSnapshot(), TakeSnapshot(TheContract())), IsEmpty())
      << "take them in with: proto_lint contract.desc tests/tidy/api.snapshot --update";
}

std::string Readme() {
  auto text = ReadFile(absl::StrCat(FromEnvironment("GRAFT_SOURCE_DIR"), "/proto/graft/README.md"));
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

// A rule's default as job files write it.
std::string ShownDefault(const pb::FieldDescriptor& field) {
  const std::string& value = field.options().GetExtension(v1::rule).default_value();
  if (field.enum_type() == nullptr) return absl::StrReplaceAll(value, {{"\"", ""}});
  const std::string& first = field.enum_type()->value(0)->name();
  const size_t prefix = first.size() - absl::string_view("UNSPECIFIED").size();
  return absl::AsciiStrToLower(value.substr(prefix));
}

// The rows that the table of defaults must have for `message`, whose fields are at `path`.
void DefaultRows(const pb::Descriptor& message, const std::string& path,
                 std::vector<std::string>& rows) {
  for (int i = 0; i < message.field_count(); ++i) {
    const pb::FieldDescriptor& field = *message.field(i);
    const std::string at = absl::StrCat(path, path.empty() ? "" : ".", field.name());
    if (!field.options().GetExtension(v1::rule).default_value().empty()) {
      rows.push_back(absl::StrCat("| `", at, "` | `", ShownDefault(field), "` |"));
    }
    if (field.message_type() != nullptr && !field.is_map()) {
      DefaultRows(*field.message_type(), absl::StrCat(at, field.is_repeated() ? "[]" : ""), rows);
    }
  }
}

const pb::FileDescriptor* FileOf(const Contract& contract, const std::string& name) {
  for (const pb::FileDescriptor* file : contract.files()) {
    if (file->name() == name) return file;
  }
  return nullptr;
}

TEST(ReadmeTest, ListsEveryReason) {
  const std::string readme = Readme();
  const Contract contract(TheContract());
  const pb::FileDescriptor* common = FileOf(contract, "graft/v1/common.proto");
  ASSERT_NE(common, nullptr);
  const pb::EnumDescriptor& reasons = *common->FindEnumTypeByName("Reason");
  for (int i = 1; i < reasons.value_count(); ++i) {
    const std::string reason(absl::StripPrefix(reasons.value(i)->name(), "REASON_"));
    EXPECT_THAT(readme, HasSubstr(absl::StrCat("| `", reason, "` |")));
  }
}

TEST(ReadmeTest, ListsEveryDefaultOfAJob) {
  const std::string readme = Readme();
  const Contract contract(TheContract());
  const pb::FileDescriptor* file = FileOf(contract, "graft/v1/job_spec.proto");
  ASSERT_NE(file, nullptr);
  std::vector<std::string> rows;
  DefaultRows(*file->FindMessageTypeByName("JobSpec"), "", rows);
  EXPECT_GT(rows.size(), 80u);
  for (const std::string& row : rows) {
    // `validation` has the same message as `training`.
    if (absl::StrContains(row, "dataset.validation[]")) continue;
    EXPECT_THAT(readme, HasSubstr(row));
  }
}

TEST(LintTest, AcceptsAGoodFile) { EXPECT_THAT(LintContract(Extended(kGood)), IsEmpty()); }

TEST(LintTest, FindsAFieldWithoutComment) {
  EXPECT_THAT(FindingsAfter("  // The name.\n", ""),
              ElementsAre(HasSubstr("graft.test.Thing.name: has no comment")));
}

TEST(LintTest, FindsMessagesEnumsValuesServicesAndMethodsWithoutComment) {
  EXPECT_THAT(FindingsAfter("// A thing.\n", ""), ElementsAre(HasSubstr("has no comment")));
  EXPECT_THAT(FindingsAfter("  // Where it is.\n  enum", "  enum"),
              ElementsAre(HasSubstr("Thing.State: has no comment")));
  EXPECT_THAT(FindingsAfter("    // There.\n", ""),
              ElementsAre(HasSubstr("STATE_THERE: has no comment")));
  EXPECT_THAT(FindingsAfter("// Things.\n", ""),
              ElementsAre(HasSubstr("ThingService: has no comment")));
  EXPECT_THAT(FindingsAfter("  // Answers a thing. NOT_FOUND.\n", ""),
              ElementsAre(HasSubstr("GetThing: has no comment")));
}

TEST(LintTest, FindsBadNames) {
  EXPECT_THAT(FindingsAfter("STATE_THERE", "THERE"), ElementsAre(HasSubstr("begins with STATE_")));
  EXPECT_THAT(FindingsAfter("int32 size", "int32 sizeOf"),
              ElementsAre(HasSubstr("lower_snake_case")));
  EXPECT_THAT(FindingsAfter("STATE_UNSPECIFIED", "STATE_NONE"),
              ElementsAre(HasSubstr("STATE_UNSPECIFIED = 0")));
}

TEST(LintTest, FindsMissingAnnotations) {
  EXPECT_THAT(FindingsAfter("string name = 1 [(google.api.field_behavior) = IDENTIFIER]",
                            "string name = 1"),
              ElementsAre(HasSubstr("marked IDENTIFIER")));
  EXPECT_THAT(FindingsAfter("graft.dev/Thing", "graft.dev/Thin"),
              ElementsAre(HasSubstr("resource type")));
  EXPECT_THAT(FindingsAfter("State state = 2 [(google.api.field_behavior) = OUTPUT_ONLY]",
                            "State state = 2"),
              ElementsAre(HasSubstr("OUTPUT_ONLY")));
}

TEST(LintTest, FindsAMethodWithoutAccess) {
  EXPECT_THAT(FindingsAfter("scope: SCOPE_CLUSTER, role: ROLE_VIEWER", ""),
              ElementsAre(HasSubstr("who may call it")));
  EXPECT_THAT(FindingsAfter(", role: ROLE_VIEWER", ""), ElementsAre(HasSubstr("a role stands")));
  EXPECT_THAT(FindingsAfter("scope: SCOPE_CLUSTER", "resource: \"size\", scope: SCOPE_WORKSPACE"),
              ElementsAre(HasSubstr("names no resource")));
}

TEST(LintTest, FindsADefaultThatTheCommentDoesNotSay) {
  EXPECT_THAT(FindingsAfter("Default 16.", "Default 8."),
              ElementsAre(HasSubstr("does not say \"Default 16\"")));
  EXPECT_THAT(FindingsAfter("min: 1}", "min: 17}"), ElementsAre(HasSubstr("out of its range")));
}

TEST(SnapshotTest, SurvivesItsText) {
  const Snapshot snapshot = TakeSnapshot(Extended(kGood));
  EXPECT_EQ(ParseSnapshot(FormatSnapshot(snapshot)), snapshot);
}

TEST(SnapshotTest, ARemovedRenumberedRenamedOrRetypedFieldIsABreak) {
  const Snapshot before = TakeSnapshot(Extended(kGood));
  const std::string field =
      "  optional int32 size = 3 [(graft.v1.rule) = {default_value: \"16\", min: 1}];\n";
  for (const std::string& to : {std::string(), std::string("  optional int32 size = 4;\n"),
                                std::string("  optional int32 length = 3;\n"),
                                std::string("  optional int64 size = 3;\n")}) {
    const std::string text = absl::StrReplaceAll(kGood, {{field, to}});
    ASSERT_NE(text, kGood);
    EXPECT_THAT(Breaks(before, TakeSnapshot(Extended(text))),
                ElementsAre(HasSubstr("field graft.test.Thing 3 size size optional:int32")));
  }
}

TEST(SnapshotTest, ARemovedFieldMustBeReservedByNumberAndName) {
  const Snapshot before = TakeSnapshot(Extended(kGood));
  const std::string field =
      "  optional int32 size = 3 [(graft.v1.rule) = {default_value: \"16\", min: 1}];\n";
  const auto breaks_with = [&](const std::string& to) {
    return Breaks(before, TakeSnapshot(Extended(absl::StrReplaceAll(kGood, {{field, to}}))));
  };
  EXPECT_THAT(breaks_with("  reserved 3;\n  reserved \"size\";\n"), IsEmpty());
  EXPECT_THAT(breaks_with("  reserved 3;\n"), Not(IsEmpty()));
  EXPECT_THAT(breaks_with("  reserved \"size\";\n"), Not(IsEmpty()));
}

TEST(SnapshotTest, AnAdditionIsNoBreak) {
  const Snapshot before = TakeSnapshot(Extended(kGood));
  const Snapshot now = TakeSnapshot(Extended(absl::StrReplaceAll(
      kGood, {{"string name = 1;", "string name = 1;\n  // More.\n  bool more = 2;"}})));
  EXPECT_THAT(Breaks(before, now), IsEmpty());
  EXPECT_THAT(Additions(before, now),
              ElementsAre("field graft.test.GetThingRequest 2 more more bool"));
}

}  // namespace
}  // namespace graft::tidy
