// NCCL's collectives through the plugin, in a world of one GPU, and what a rank knows of waits that
// are queued there. Skipped without a GPU; messages between two ranks need two.
#include <ATen/ATen.h>

#include <cstdio>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

#include "gtest/gtest.h"
#include "worker/parallel/activity.h"
#include "worker/parallel/device_collectives.h"
#include "worker/trainer/compute_device.h"

namespace graft::trainer {
namespace {

model::Accelerator* accelerator = nullptr;

class NcclTest : public ::testing::Test {
 protected:
  parallel::DeviceCollectives Collectives() {
    const auto store = c10::make_intrusive<c10d::HashStore>();
    return {0, 1, device_, [store](const std::string& name) {
              return accelerator->Connect({c10::make_intrusive<c10d::PrefixStore>(name, store), 0,
                                           1, "127.0.0.1", std::chrono::minutes(1)});
            }};
  }
  at::Tensor Numbers() const { return at::arange(12, at::device(device_).dtype(at::kFloat)); }
  static void Wait(parallel::Transfers& transfers) {
    for (const auto& transfer : transfers) transfer->Wait();
    transfers.clear();
  }

  const at::Device device_ = at::Device(at::kCUDA, 0);
};

TEST_F(NcclTest, EveryCollectiveOfOneRankGivesItsOwnNumbers) {
  parallel::DeviceCollectives collectives = Collectives();
  parallel::Transfers transfers;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor numbers = Numbers().to(type);
    const at::Tensor x = numbers.clone(), out = at::zeros_like(x);
    collectives.AllReduce(x, parallel::Reduce::kSum, transfers);
    collectives.AllReduce(x, parallel::Reduce::kMax, transfers);
    Wait(transfers);
    EXPECT_TRUE(x.equal(numbers));
    collectives.SumScatter(numbers, out, transfers);
    Wait(transfers);
    EXPECT_TRUE(out.equal(numbers));
    out.zero_();
    collectives.Gather(numbers, out, transfers);
    Wait(transfers);
    EXPECT_TRUE(out.equal(numbers));
    out.zero_();
    collectives.AllToAll(numbers, {12}, out, {12}, transfers);
    Wait(transfers);
    EXPECT_TRUE(out.equal(numbers));
  }
}

TEST_F(NcclTest, AQueuedWaitIsCountedWhenTheDeviceHasLeftIt) {
  parallel::DeviceCollectives collectives = Collectives();
  parallel::Activity activity;
  const at::Tensor x = Numbers();
  const int64_t before = activity.Now().ticks;
  for (int i = 0; i < 3; ++i) {
    parallel::Transfers transfers;
    collectives.AllReduce(x, parallel::Reduce::kSum, transfers);
    activity.WaitOn(device_, "sums", "0", parallel::WaitKind::kTensor, [&] { Wait(transfers); });
  }
  activity.Settle();
  EXPECT_EQ(activity.Now().ticks, before + 3);
  EXPECT_FALSE(activity.Now().waiting);
  const parallel::Activity::Seconds seconds = activity.TakeSeconds();
  EXPECT_GE(seconds.tensor, 0);
  EXPECT_EQ(seconds.tensor, seconds.communication);
}

}  // namespace
}  // namespace graft::trainer

constexpr int kSkipped = 77;

int main(int argc, char** argv) {
  const char* build = std::getenv("GRAFT_BINARY_DIR");
  if (build != nullptr) {
    graft::trainer::accelerator = graft::trainer::LoadAccelerator(std::string(build) + "/bin");
  }
  ::testing::InitGoogleTest(&argc, argv);
  if (graft::trainer::accelerator == nullptr) {
    std::puts("skipped: no GPU, or no libgraft_cuda.so");
    return kSkipped;  // as ctest knows it: not passed
  }
  return RUN_ALL_TESTS();
}
