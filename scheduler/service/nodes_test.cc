// Nodes as a client sees them, their workers played by the test.
#include "graft/v1/node.grpc.pb.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/service/testing/test_worker.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::HasSubstr;
using NodeTest = ServiceTest;

TEST_F(NodeTest, ANodeShowsHowBusyItIs) {
  const auto nodes = v1::NodeService::NewStub(channel_);
  TestWorker worker(channel_);
  worker.Register();
  auto& use = *worker.report().add_device_use();
  use.set_utilisation(0.5);
  use.set_memory_used_bytes(7);
  worker.report().set_disk_free_bytes(9);
  worker.Sync();
  v1::GetNodeRequest get;
  get.set_name("nodes/n0");
  v1::Node node;
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
  EXPECT_DOUBLE_EQ(node.devices(0).utilisation(), 0.5);
  EXPECT_EQ(node.devices(0).memory_used_bytes(), 7);
  EXPECT_EQ(node.disk_free_bytes(), 9);
}

TEST_F(NodeTest, ANewerWorkerSpeaksTheSchedulersProtocolAndAStrangerIsRefused) {
  TestWorker newer(channel_);
  newer.introduction().add_protocol_versions(2);
  newer.Register();
  EXPECT_EQ(newer.registered().protocol_version(), 1);
  newer.introduction().clear_protocol_versions();
  newer.introduction().add_protocol_versions(2);
  const absl::Status refused = newer.TryRegister();
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("protocol 1")));
  EXPECT_EQ(rpc::ReadErrorDetails(refused).reason, "PROTOCOL_UNSUPPORTED");
  EXPECT_EQ(rpc::ReadErrorDetails(refused).metadata.at("supported"), "1");
}

TEST_F(NodeTest, ADrainSaysWhenItIsOver) {
  const auto nodes = v1::NodeService::NewStub(channel_);
  TestWorker worker(channel_);
  worker.Register();
  v1::DrainNodeRequest drain;
  drain.set_name("nodes/n0");
  drain.mutable_timeout()->set_seconds(-1);
  v1::Node node;
  EXPECT_THAT(Call(*nodes, &v1::NodeService::Stub::DrainNode, drain, node),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("timeout")));
  drain.mutable_timeout()->set_seconds(60);
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::DrainNode, drain, node), IsOk());
  v1::GetNodeRequest get;
  get.set_name("nodes/n0");
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
  EXPECT_EQ(node.drain().state(), v1::Drain::STATE_DRAINED);
  EXPECT_GT(node.drain().deadline().seconds(), node.update_time().seconds() + 50);
}

TEST_F(NodeTest, ANodeWhoseWorkerShutsDownIsSaidToLeave) {
  const auto nodes = v1::NodeService::NewStub(channel_);
  TestWorker worker(channel_);
  worker.Register();
  worker.report().set_leaving(true);
  worker.Sync();  // answered at once: nothing runs there
  v1::GetNodeRequest get;
  get.set_name("nodes/n0");
  v1::Node node;
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
  EXPECT_EQ(node.drain().state(), v1::Drain::STATE_DRAINED);
  EXPECT_THAT(node.message(), HasSubstr("shuts down"));
  worker.introduction().set_node_credential(worker.registered().node_credential());
  worker.Register();
  ASSERT_THAT(Call(*nodes, &v1::NodeService::Stub::GetNode, get, node), IsOk());
  EXPECT_FALSE(node.has_drain());
}

}  // namespace
}  // namespace graft::scheduler
