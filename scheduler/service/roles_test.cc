// The role table: each method of each service x each role x the caller's own and a foreign
// workspace, from the contract's options, through the real server. A method without a rule keeps
// the server from starting; one whose handler forgets its rule fails here.
#include "google/protobuf/dynamic_message.h"
#include "scheduler/service/testing/generic_call.h"
#include "scheduler/service/testing/test_server.h"

namespace graft::scheduler {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using rpc::Role;
using rpc::Scope;

// Puts the workspace into every name that the request has, so that whichever field is the
// resource's names it.
void NameEverything(Message& request, const std::string& workspace, int depth = 0) {
  const auto& reflection = *request.GetReflection();
  const std::string base = absl::StrCat("workspaces/", workspace);
  for (int i = 0; i < request.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = request.GetDescriptor()->field(i);
    if (field->is_repeated() || field->real_containing_oneof() != nullptr) continue;
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      const bool ours = absl::StartsWith(field->message_type()->full_name(), "graft.v1.");
      if (depth == 0 && ours) {
        NameEverything(*reflection.MutableMessage(&request, field), workspace, 1);
      }
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING &&
               field->type() == FieldDescriptor::TYPE_STRING) {
      const std::string& name = field->name();
      if (name == "parent" || name == "workspace") {
        reflection.SetString(&request, field, base);
      } else if (name == "name" || name == "version" || name == "fileset" || name == "session" ||
                 name == "model" || name == "target") {
        reflection.SetString(&request, field, absl::StrCat(base, "/things/thing"));
      }
    }
  }
}

class RolesTest : public ServiceTest {
 protected:
  void SetUp() override { Start(false); }

  absl::Status CallByName(const MethodDescriptor& method, const std::string& workspace,
                          const std::string& token) {
    std::unique_ptr<Message> request(factory_.GetPrototype(method.input_type())->New());
    NameEverything(*request, workspace);
    // A stream that is let in and has nothing to send hangs until then.
    const auto timeout = std::chrono::seconds(method.server_streaming() ? 1 : 20);
    return GenericCaller(channel_).Call(method, request->SerializeAsString(), token, timeout);
  }

  google::protobuf::DynamicMessageFactory factory_;
};

// Whether the door let the call in: what the handler says of a resource that is not there, or of a
// request that lacks something, comes from behind it.
bool LetIn(const absl::Status& status) {
  const rpc::ErrorDetails details = rpc::ReadErrorDetails(status);
  if (absl::IsUnauthenticated(status)) return false;
  if (absl::IsPermissionDenied(status) && details.reason == "ROLE_MISSING") return false;
  return !(absl::IsNotFound(status) && absl::StartsWith(status.message(), "workspace '"));
}

// Of the contract, and not of this build.
bool IsAbsent(const absl::Status& status) {
  return absl::IsUnimplemented(status) && (absl::EndsWith(status.message(), "by this server") ||
                                           absl::EndsWith(status.message(), "in this build"));
}

TEST_F(RolesTest, EachMethodObeysItsRule) {
  int checked = 0;
  for (const char* name : kContractServices) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr) << name;
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor& method = *service->method(i);
      if (method.client_streaming()) continue;
      GRAFT_ASSERT_OK_AND_ASSIGN(const rpc::AccessRule rule, rpc::AccessRuleOf(method));
      for (int role = 0; role <= 4; ++role) {
        for (const bool own : {true, false}) {
          std::map<std::string, Role> roles;
          if (role > 0) roles["default"] = static_cast<Role>(role);
          const std::string workspace = own ? "default" : "foreign";
          const absl::Status status = CallByName(method, workspace, TokenFor("users/eve", roles));
          if (IsAbsent(status)) continue;
          bool expected = true;
          if (rule.scope == Scope::kWorkspace)
            expected = own && role >= static_cast<int>(rule.role);
          if (rule.scope == Scope::kCluster) expected = false;
          if (rule.scope == Scope::kScheduler || rule.scope == Scope::kWorker) expected = false;
          // Methods for anyone may refuse by themselves, which is no matter of the door.
          if (rule.scope == Scope::kAuthenticated || rule.scope == Scope::kPublic) continue;
          EXPECT_EQ(LetIn(status), expected)
              << method.full_name() << " as " << rpc::RoleName(static_cast<Role>(role)) << " in "
              << (own ? "its own" : "a foreign") << " workspace: " << status;
          ++checked;
        }
      }
      const absl::Status anonymous = CallByName(method, "default", "");
      if (rule.scope == Scope::kPublic || IsAbsent(anonymous)) continue;
      EXPECT_THAT(anonymous, StatusIs(absl::StatusCode::kUnauthenticated)) << method.full_name();
    }
  }
  EXPECT_GT(checked, 400);
}

TEST_F(RolesTest, ClusterMethodsObeyTheClustersRole) {
  for (const char* name : kContractServices) {
    const auto* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    for (int i = 0; i < service->method_count(); ++i) {
      const MethodDescriptor& method = *service->method(i);
      GRAFT_ASSERT_OK_AND_ASSIGN(const rpc::AccessRule rule, rpc::AccessRuleOf(method));
      if (rule.scope != Scope::kCluster || method.client_streaming()) continue;
      for (int role = 1; role <= 4; ++role) {
        const std::string token =
            TokenFor("users/eve", {{std::string(rpc::kCluster), static_cast<Role>(role)}});
        const absl::Status status = CallByName(method, "default", token);
        EXPECT_EQ(LetIn(status), role >= static_cast<int>(rule.role))
            << method.full_name() << " as " << rpc::RoleName(static_cast<Role>(role)) << ": "
            << status;
      }
    }
  }
}

// Where the handler decides by itself, foreign things are not there.
TEST_F(RolesTest, ForeignResourcesAreNotFoundByMethodsForAnyone) {
  const std::string token = TokenFor("users/eve", {{"mine", Role::kAdmin}});
  const auto call = [&](const char* service, const char* method) {
    const auto* found = google::protobuf::DescriptorPool::generated_pool()
                            ->FindServiceByName(service)
                            ->FindMethodByName(method);
    return CallByName(*found, "default", token);
  };
  EXPECT_THAT(call("graft.v1.UsageService", "QueryUsage"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(call("graft.v1.AccessService", "ListTokens").ok());
  EXPECT_FALSE(call("graft.v1.AccessService", "CreateRoleBinding").ok());
  EXPECT_FALSE(call("graft.v1.AccessService", "DeleteRoleBinding").ok());
}

}  // namespace
}  // namespace graft::scheduler
