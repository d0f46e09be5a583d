#include "base/loop.h"

#include <vector>

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

TEST(LoopTest, RunsTasksInOrderOnItsThread) {
  RealClock clock;
  Loop loop(clock);
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) {
    ASSERT_THAT(loop.Post([&, i] {
      EXPECT_TRUE(loop.IsOnLoopThread());
      order.push_back(i);
    }),
                IsOk());
  }
  loop.Stop();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(LoopTest, SaysWhenItIsFullAndWhenItIsStopped) {
  RealClock clock;
  Loop loop(clock, {.max_queued = 2});
  Notification entered, release;
  ASSERT_THAT(loop.Post([&] {
    entered.Notify();
    release.Wait();
  }),
              IsOk());
  entered.Wait();
  EXPECT_THAT(loop.Post([] {}), IsOk());
  EXPECT_THAT(loop.Post([] {}), IsOk());
  EXPECT_THAT(loop.Post([] {}), StatusIs(absl::StatusCode::kResourceExhausted));
  release.Notify();
  loop.Stop();
  EXPECT_THAT(loop.Post([] {}), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(LoopTest, TimersRunInTheOrderOfTheirTimes) {
  RealClock clock;
  Loop loop(clock);
  std::vector<int> order;
  Notification done;
  const absl::Time now = clock.Now();
  loop.RunAt(now + absl::Milliseconds(20), [&] {
    order.push_back(2);
    done.Notify();
  });
  loop.RunAt(now + absl::Milliseconds(5), [&] { order.push_back(1); });
  const Loop::TimerId cancelled =
      loop.RunAt(now + absl::Milliseconds(10), [&] { order.push_back(9); });
  EXPECT_TRUE(loop.Cancel(cancelled));
  EXPECT_FALSE(loop.Cancel(cancelled));
  done.Wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

}  // namespace
}  // namespace graft
