#include "scheduler/service/control.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/service/engine.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {
namespace {

class NoOutput final : public EngineOutput {
 public:
  void OnCommitted(int64_t) override {}
  void OnDesiredChanged(const std::string&) override {}
  void OnPublish(const PublishCall&) override {}
  void OnJobWritten(Turn&, const Job&) override {}
};

class ControlTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GRAFT_ASSERT_OK_AND_ASSIGN(control_, Control::Start(store_, clock_, output_, {}));
  }
  absl::Status Write(const std::string& value) {
    Notification done;
    absl::Status result;
    control_->Submit({.work =
                          [&](Turn& turn) {
                            turn.Put(Family::kRecords, "key", value);
                            return absl::OkStatus();
                          },
                      .done =
                          [&](absl::Status status, int64_t) {
                            result = std::move(status);
                            done.Notify();
                          }});
    done.Wait();
    Settle();
    return result;
  }
  // Until the loop has come round once more.
  void Settle() {
    Notification there;
    control_->Inspect([&](const Core&) { there.Notify(); });
    there.Wait();
  }

  MemDisk disk_;
  MemStore store_{disk_};
  FakeClock clock_;
  NoOutput output_;
  std::unique_ptr<Control> control_;
};

TEST_F(ControlTest, ALoopThatHangsIsNotHealthy) {
  Settle();
  EXPECT_THAT(control_->Health(), IsOk());
  Notification hangs, release;
  control_->Inspect([&](const Core&) {
    hangs.Notify();
    release.Wait();
  });
  hangs.Wait();
  clock_.Advance(absl::Seconds(11));
  EXPECT_THAT(control_->Health(), StatusIs(absl::StatusCode::kUnavailable));
  release.Notify();
  ASSERT_THAT(Write("x"), IsOk());
  EXPECT_THAT(control_->Health(), IsOk());
}

TEST_F(ControlTest, AStoreThatTakesNoWritesIsNotHealthyUntilItDoes) {
  disk_.next_fault = MemDisk::Fault::kRefuse;
  EXPECT_THAT(Write("lost"), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(control_->Health(), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Write("kept"), IsOk()) << "it is opened again with the next request";
  EXPECT_THAT(control_->Health(), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Record record, store_.Get(Family::kRecords, "key"));
  EXPECT_EQ(record.value, "kept");
}

}  // namespace
}  // namespace graft::scheduler
