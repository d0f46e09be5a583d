// What a rank knows of waits that are queued on a device. The device is a stand-in whose stream
// goes on when the test says so.
#include "worker/parallel/activity.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "gtest/gtest.h"

namespace graft::parallel {
namespace {

constexpr c10::DeviceType kType = c10::DeviceType::MAIA;
constexpr double kMillisecondsBetween = 250;  // two events

// Events are numbers in the order of the stream, which has passed the first `passed` of them.
struct Stream {
  int64_t recorded = 0;
  int64_t passed = 0;
  bool lost = false;
};
Stream stream;

class StandIn final : public c10::impl::DeviceGuardImplInterface {
 public:
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override { return device; }
  c10::Device getDevice() const override { return {kType, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream s) const override { return s; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {
    *event = new int64_t(stream.recorded++);
  }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<int64_t*>(event);
  }
  bool queryEvent(void* event) const override {
    TORCH_CHECK(!stream.lost, "the device is lost");
    return Place(event) < stream.passed;
  }
  void synchronizeEvent(void* event) const override {
    stream.passed = std::max(stream.passed, Place(event) + 1);
  }
  double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
    return static_cast<double>(Place(to) - Place(from)) * kMillisecondsBetween;
  }

 private:
  static int64_t Place(void* event) { return *static_cast<int64_t*>(event); }
};
const c10::impl::DeviceGuardImplRegistrar kRegistrar(kType, new StandIn);

class QueuedWaitTest : public ::testing::Test {
 protected:
  QueuedWaitTest() { stream = {}; }
  void Queue(const char* what, WaitKind kind) {
    activity_.WaitOn({kType, 0}, what, "0-1", kind, [] {});
  }
  Activity activity_;
};

TEST_F(QueuedWaitTest, TheStreamWaitsBetweenItsEventsAndTheTimeCountsBehindThem) {
  Queue("sums", WaitKind::kTensor);
  Queue("activations", WaitKind::kPipeline);
  EXPECT_FALSE(activity_.Now().waiting) << "it computes what stands before";
  EXPECT_EQ(activity_.Now().ticks, 0);
  stream.passed = 1;
  EXPECT_TRUE(activity_.Now().waiting);
  EXPECT_EQ(activity_.Now().what, "sums");
  EXPECT_EQ(activity_.Now().with, "0-1");
  EXPECT_EQ(activity_.TakeSeconds().communication, 0);
  stream.passed = 3;
  EXPECT_EQ(activity_.Now().what, "activations");
  EXPECT_EQ(activity_.Now().ticks, 1);
  const Activity::Seconds first = activity_.TakeSeconds();
  EXPECT_EQ(first.tensor, 0.25);
  EXPECT_EQ(first.communication, 0.25);
  EXPECT_EQ(first.pipeline, 0);
  activity_.Settle();
  EXPECT_FALSE(activity_.Now().waiting);
  EXPECT_EQ(activity_.Now().ticks, 2);
  EXPECT_EQ(activity_.TakeSeconds().pipeline, 0.25);
}

TEST_F(QueuedWaitTest, TheThreadsOwnWaitIsWhatIsTold) {
  Queue("sums", WaitKind::kTensor);
  stream.passed = 1;
  activity_.Wait("files", "0-3", WaitKind::kCommunication,
                 [this] { EXPECT_EQ(activity_.Now().what, "files"); });
  EXPECT_EQ(activity_.Now().what, "sums");
}

TEST_F(QueuedWaitTest, ADeviceThatIsLostIsOthersDoing) {
  Queue("sums", WaitKind::kTensor);
  stream.lost = true;
  const Activity::Snapshot now = activity_.Now();
  EXPECT_TRUE(now.broken);
  EXPECT_FALSE(now.waiting);
}

}  // namespace
}  // namespace graft::parallel
