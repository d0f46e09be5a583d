#include "worker/trainer/compute_device.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;

// Facts alone: no tensor goes there.
class TwoCards final : public model::Accelerator {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  int count() const override { return 2; }
  model::AcceleratorFacts Describe(int index) const override {
    return index == 0 ? model::AcceleratorFacts{"NVIDIA H100 80GB HBM3", int64_t{80} << 30, true}
                      : model::AcceleratorFacts{"Tesla T4", int64_t{15} << 30, false};
  }
  int64_t PeakBytes(int) const override { return 0; }
  const model::DeviceKernels& kernels() const override { return *kernels_; }
  c10::intrusive_ptr<c10d::Backend> Connect(const model::Meeting&) const override {
    return nullptr;
  }

 private:
  const model::DeviceKernels* kernels_ = nullptr;
};

TEST(ChooseDeviceTest, AutoTakesAGpuWhereThereIsOne) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice cpu, ChooseDevice("auto", 0, nullptr));
  EXPECT_TRUE(cpu.device.is_cpu());
  const TwoCards cards;
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice gpu, ChooseDevice("auto", 0, &cards));
  EXPECT_EQ(gpu.device.str(), "cuda:0");
  EXPECT_TRUE(gpu.types.bf16);
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice asked, ChooseDevice("cpu", 0, &cards));
  EXPECT_TRUE(asked.device.is_cpu());
}

TEST(ChooseDeviceTest, TakesTheCardThatIsNamedAndKnowsWhatItLacks) {
  const TwoCards cards;
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice second, ChooseDevice("cuda:1", 0, &cards));
  EXPECT_EQ(second.device.index(), 1);
  EXPECT_EQ(ChooseCompute(Precision::kAuto, second.types).precision, Precision::kFp16);
}

TEST(ChooseDeviceTest, RanksOfOneMachineTakeACardEach) {
  const TwoCards cards;
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice first, ChooseDevice("auto", 2, &cards));
  GRAFT_ASSERT_OK_AND_ASSIGN(const DeviceChoice second, ChooseDevice("cuda", 3, &cards));
  EXPECT_EQ(first.device.str(), "cuda:0");
  EXPECT_EQ(second.device.str(), "cuda:1");
}

TEST(ChooseDeviceTest, RefusesWhatIsNotThereByName) {
  const TwoCards cards;
  EXPECT_THAT(ChooseDevice("cuda:2", 0, &cards).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has 2 GPUs")));
  EXPECT_THAT(ChooseDevice("cuda", 0, nullptr).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("has 0 GPUs")));
  EXPECT_THAT(ChooseDevice("cuda:one", 0, &cards).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("cuda:N")));
  EXPECT_THAT(ChooseDevice("gpu", 0, &cards).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device is \"gpu\"")));
}

TEST(PeakFlopsTest, IsKnownOfACardByItsNameAndMeasuredOnACpu) {
  EXPECT_EQ(PeakFlopsOf({at::kCPU, {.gpu = true}, "NVIDIA H100 80GB HBM3"}), 989e12);
  EXPECT_EQ(PeakFlopsOf({at::kCPU, {.gpu = true}, "NVIDIA H100 PCIe"}), 756e12);
  EXPECT_EQ(PeakFlopsOf({at::kCPU, {.gpu = true}, "a card of tomorrow"}), 0);
  EXPECT_GT(PeakFlopsOf({at::kCPU, {}, "cpu"}), 1e8);
}

}  // namespace
}  // namespace graft::trainer
