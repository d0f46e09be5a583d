// The collectives over Gloo, over shared memory and as a device's, with threads for ranks; the
// rendezvous' proofs; who the watchdog blames.
#include "worker/parallel/group.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <functional>

#include "base/digest.h"
#include "base/mutex.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/parallel/test_ranks.h"
#include "worker/parallel/watchdog.h"

namespace graft::parallel {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

at::Tensor Numbers(int64_t rank, int64_t rows) {
  return at::arange(rows * 3, at::kFloat).view({rows, 3}) + static_cast<double>(100 * rank);
}

struct Meeting {
  const char* name;
  const char* text;  // what the world says of it
  Adjust adjust;
};
class GroupTest : public ::testing::TestWithParam<Meeting> {
 protected:
  void Run(const spec::Layout& layout, const std::function<void(World&)>& body) {
    RunWorlds(
        layout, 0,
        [&](World& world) {
          EXPECT_EQ(world.TransportText(), GetParam().text);
          body(world);
        },
        GetParam().adjust);
  }
};
INSTANTIATE_TEST_SUITE_P(
    Transports, GroupTest,
    ::testing::Values(Meeting{"SharedMemory", "shared memory", [](WorldOptions&) {}},
                      Meeting{"Gloo", "gloo",
                              [](WorldOptions& options) { options.shared_memory = false; }},
                      Meeting{"Device", "collectives of cpu", OverDeviceCollectives}),
    [](const auto& info) { return info.param.name; });

TEST_P(GroupTest, SumsGathersAndScatters) {
  constexpr int64_t kRanks = 3;
  Run({.tp = kRanks}, [](World& world) {
    Group& group = world.tensor();
    const int64_t own = group.index();
    at::Tensor total = at::zeros({6, 3});
    std::vector<at::Tensor> all;
    for (int64_t r = 0; r < kRanks; ++r) {
      total = total + Numbers(r, 6);
      all.push_back(Numbers(r, 6));
    }
    at::Tensor sum = Numbers(own, 6);
    group.AllReduce(sum, Reduce::kSum, "sum");
    EXPECT_TRUE(sum.equal(total));
    at::Tensor largest = Numbers(own, 6);
    group.AllReduce(largest, Reduce::kMax, "max");
    EXPECT_TRUE(largest.equal(Numbers(kRanks - 1, 6)));
    EXPECT_TRUE(group.Gather(Numbers(own, 6), "gather").equal(at::cat(all)));
    EXPECT_TRUE(group.SumScatter(Numbers(own, 6), "scatter").equal(total.narrow(0, own * 2, 2)));
    at::Tensor big = at::full({1 << 16}, static_cast<float>(own + 1));  // above the direct way
    group.AllReduce(big, Reduce::kSum, "big sum");
    EXPECT_TRUE(big.equal(at::full({1 << 16}, 6.0f)));
  });
}

TEST_P(GroupTest, AllToAllWithUnevenAndEmptyPieces) {
  Run({.dp = 3}, [](World& world) {
    Group& group = world.all();
    // Rank r has r * to rows for each rank `to`.
    std::vector<int64_t> counts, expected;
    std::vector<at::Tensor> pieces;
    for (int64_t to = 0; to < 3; ++to) {
      counts.push_back(group.index() * to);
      expected.push_back(to * group.index());
      pieces.push_back(
          at::full({group.index() * to, 2}, static_cast<float>(group.index() * 10 + to)));
    }
    const at::Tensor got = group.AllToAll(at::cat(pieces), counts, expected, "exchange");
    std::vector<at::Tensor> wanted;
    for (int64_t from = 0; from < 3; ++from) {
      wanted.push_back(
          at::full({from * group.index(), 2}, static_cast<float>(from * 10 + group.index())));
    }
    EXPECT_TRUE(got.equal(at::cat(wanted)));
  });
}

TEST_P(GroupTest, SumsThatAreUnderWayTogetherComeApart) {
  constexpr int kSums = 5;
  Run({.dp = 3}, [](World& world) {
    Group& group = world.all();
    std::vector<at::Tensor> sums;
    std::vector<Pending> pending;
    for (int i = 0; i < kSums; ++i) {
      // Divides by nothing; above the direct way.
      sums.push_back(at::full({(1 << 15) + i}, static_cast<float>((group.index() + 1) * (i + 1))));
      pending.push_back(group.StartSum(sums.back(), "sums"));
    }
    for (int i = 0; i < kSums; ++i) {
      pending[static_cast<size_t>(i)].Wait();
      EXPECT_TRUE(sums[static_cast<size_t>(i)].equal(
          at::full({(1 << 15) + i}, static_cast<float>(6 * (i + 1)))));
    }
  });
}

TEST_P(GroupTest, AGatherPassesAScatterThatIsUnderWay) {
  Run({.dp = 3}, [](World& world) {
    Group& group = world.all();
    const at::Tensor own = Numbers(group.index(), 6);
    at::Tensor sum = at::empty({2, 3});
    Pending scatter = group.StartScatter(own, sum, "scatter");
    EXPECT_TRUE(group.Gather(own.narrow(0, 0, 1).contiguous(), "gather")
                    .equal(at::cat({Numbers(0, 1), Numbers(1, 1), Numbers(2, 1)})));
    scatter.Wait();
    const at::Tensor total = Numbers(0, 6) + Numbers(1, 6) + Numbers(2, 6);
    EXPECT_TRUE(sum.equal(total.narrow(0, 2 * group.index(), 2)));
  });
}

TEST_P(GroupTest, MessagesFindTheirReceiversByTheirTags) {
  Run({.pp = 2}, [](World& world) {
    Group& group = world.pipeline();
    if (group.index() == 0) {
      Pending first = group.Send(at::full({4}, 1.0f), 1, 7, "first");
      Pending second = group.Send(at::full({4}, 2.0f), 1, 8, "second");
      first.Wait();
      second.Wait();
    } else {
      at::Tensor x = at::empty({4});
      group.Receive(x, 0, 8, "second");
      EXPECT_TRUE(x.equal(at::full({4}, 2.0f)));
      group.Receive(x, 0, 7, "first");
      EXPECT_TRUE(x.equal(at::full({4}, 1.0f)));
    }
  });
}

TEST_P(GroupTest, ARankHandsOnWhatIsItsOwnAndGetsItsNeighbours) {
  Run({.cp = 3}, [](World& world) {
    Group& group = world.context();
    const int64_t own = group.index();
    const at::Tensor came = group.HandOn(Numbers(own, 4), (own + 1) % 3, (own + 2) % 3, "hand on");
    EXPECT_TRUE(came.equal(Numbers((own + 2) % 3, 4)));
  });
}

TEST(SharedMemoryTest, GroupsWithARankThatHasNoneGoOverGloo) {
  RunWorlds(
      {.tp = 2, .dp = 2}, 0,
      [](World& world) {
        EXPECT_EQ(world.TransportText(), world.rank() < 3 ? "shared memory and gloo" : "gloo");
        at::Tensor x = at::full({1 << 15}, static_cast<float>(world.rank() + 1));
        world.tensor().AllReduce(x, Reduce::kSum, "of two");
        EXPECT_TRUE(x.equal(at::full({1 << 15}, world.rank() < 2 ? 3.0f : 7.0f)));
        world.all().AllReduce(x, Reduce::kSum, "of all");
        EXPECT_TRUE(x.equal(at::full({1 << 15}, 20.0f)));
      },
      [](WorldOptions& options) { options.shared_memory = options.rank < 3; });
}

TEST(SharedMemoryTest, MoreMessagesThanARingHoldsWaitForTheirReaderAndLeaveNothing) {
  constexpr int kMessages = 2000;
  RunRanks(2, [](int64_t rank, const StorePtr& store) {
    const auto memory = SharedMemory::Join({.rank = rank, .world = 2}, store);
    ASSERT_TRUE(memory->Reaches({0, 1}));
    const auto transport = memory->MakeTransport({0, 1}, rank, 1);
    Transfers transfers;
    for (int i = 0; i < kMessages; ++i) {
      const at::Tensor x = at::full({i % 100}, static_cast<float>(i));
      transport->Send(x, {1 - rank}, i % 3, transfers);
    }
    EXPECT_TRUE(transfers.empty());
    // Tag after tag, so that most are there long before they are asked for.
    for (int tag = 2; tag >= 0; --tag) {
      for (int i = tag; i < kMessages; i += 3) {
        at::Tensor x = at::empty({i % 100});
        transport->Receive(x, 1 - rank, tag, transfers);
        transfers.back()->Wait();
        EXPECT_TRUE(x.equal(at::full({i % 100}, static_cast<float>(i))));
      }
    }
    store->set("read/" + std::to_string(rank), std::vector<uint8_t>{1});
    store->wait({"read/0", "read/1"});
    EXPECT_EQ(memory->BytesUnderWay(), 0);
  });
}

TEST(SharedMemoryTest, AWaitThatNobodyEndsThrows) {
  RunRanks(2, [](int64_t rank, const StorePtr& store) {
    const auto memory = SharedMemory::Join(
        {.rank = rank, .world = 2, .timeout = std::chrono::milliseconds(20)}, store);
    const auto transport = memory->MakeTransport({0, 1}, rank, 1);
    Transfers transfers;
    transport->Receive(at::empty({4}), 1 - rank, 0, transfers);
    EXPECT_THROW(transfers[0]->Wait(), c10::Error);
  });
}

TEST(RendezvousTest, ARankWithoutTheSecretIsRefusedByName) {
  const StorePtr shared = c10::make_intrusive<c10d::HashStore>();
  absl::Status seen;
  std::thread honest([&] {
    seen = Prove(shared, {.rank = 0,
                          .world = 2,
                          .secret = "s",
                          .attempt = "a",
                          .timeout = std::chrono::seconds(20)})
               .status();
  });
  // It knows the prefix, as somebody who reads the store would, but not the secret.
  const std::string prefix = ToHex(HmacSha256("s", "a"));
  shared->set(prefix + "/proof/1", std::vector<uint8_t>{1, 2, 3});
  honest.join();
  EXPECT_THAT(seen, StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("rank 1")));
}

TEST(RendezvousTest, TwoAttemptsDoNotMeet) {
  const StorePtr shared = c10::make_intrusive<c10d::HashStore>();
  absl::Status seen[2];
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      seen[rank] = Prove(shared, {.rank = rank,
                                  .world = 2,
                                  .secret = "s",
                                  .attempt = "attempt " + std::to_string(rank),
                                  .timeout = std::chrono::milliseconds(50)})
                       .status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(seen[0], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("for rank 1")));
  EXPECT_THAT(seen[1], StatusIs(absl::StatusCode::kUnavailable, HasSubstr("for rank 0")));
}

Beat BeatOf(int64_t count, int64_t ticks, const std::string& what) {
  Beat beat;
  beat.count = count;
  beat.state.training = true;
  beat.state.step = 17;
  beat.state.ticks = ticks;
  beat.state.waiting = !what.empty();
  beat.state.what = what;
  beat.state.with = "0-2";
  return beat;
}

TEST(BeatJudgeTest, BlamesTheSilentTheStillTheFailedAndTheCrossed) {
  const BeatJudge::Limits limits = {.silent_seconds = 8, .still_seconds = 18};
  BeatJudge silent(3, 0, limits);
  for (int64_t t = 0; t <= 9; ++t) {
    silent.Observe({BeatOf(t, 5, "gradient sums"), BeatOf(t, t, ""), BeatOf(1, 3, "")}, t);
    EXPECT_EQ(silent.Verdict(t).has_value(), t > 8);
  }
  EXPECT_THAT(*silent.Verdict(10),
              AllOf(HasSubstr("rank 2 is lost"), HasSubstr("step 17"), HasSubstr("gradient sums")));

  BeatJudge still(3, 0, limits);
  for (int64_t t = 0; t <= 20; ++t) {
    still.Observe({BeatOf(t, 5, "gradient sums"), BeatOf(t, 4, ""), BeatOf(t, 9, "tp gather")}, t);
  }
  EXPECT_THAT(*still.Verdict(20), AllOf(HasSubstr("rank 1 hangs"), HasSubstr("gradient sums")));

  BeatJudge crossed(2, 0, limits);
  for (int64_t t = 0; t <= 20; ++t) {
    crossed.Observe({BeatOf(t, 5, "gradient sums"), BeatOf(t, 4, "tp gather")}, t);
  }
  EXPECT_THAT(*crossed.Verdict(20), AllOf(HasSubstr("rank 0 at step 17 in \"gradient sums\""),
                                          HasSubstr("rank 1 at step 17 in \"tp gather\"")));

  BeatJudge failed(2, 0, limits);
  Beat own_fault = BeatOf(1, 1, "");
  own_fault.failure = "disk full";
  failed.Observe({BeatOf(1, 5, "gradient sums"), own_fault}, 0);
  EXPECT_THAT(*failed.Verdict(0), AllOf(HasSubstr("rank 1 failed"), HasSubstr("disk full")));

  BeatJudge working(2, 0, limits);
  for (int64_t t = 0; t <= 60; ++t) {
    working.Observe({BeatOf(t, 5, "gradient sums"), BeatOf(t, t, "")}, t);
    EXPECT_FALSE(working.Verdict(t).has_value());
  }
}

TEST(BeatJudgeTest, ABeatIsReadAsItWasWritten) {
  Beat beat = BeatOf(3, 4, "a \"quoted\" name");
  beat.failure = "line\nfeed";
  const Beat read = Beat::Parse(beat.Format());
  EXPECT_EQ(read.count, 3);
  EXPECT_EQ(read.state.what, beat.state.what);
  EXPECT_EQ(read.failure, beat.failure);
  EXPECT_TRUE(read.state.waiting);
}

TEST(WatchdogTest, ARankThatFailsIsNamedToTheOthers) {
  Notification told;
  std::string message;
  RunRanks(2, [&](int64_t rank, const StorePtr& store) {
    Activity activity;
    activity.SetStep(3);
    Watchdog watchdog(rank, 2, store, activity, [&](const std::string& text, int64_t) {
      message = text;
      told.Notify();
    });
    if (rank == 1) watchdog.Fail("out of memory");
    told.Wait();
  });
  EXPECT_THAT(message, AllOf(HasSubstr("rank 1 failed at step 3"), HasSubstr("out of memory")));
}

TEST(WatchdogTest, RanksThatAreDoneLeaveTogether) {
  RunRanks(3, [&](int64_t rank, const StorePtr& store) {
    Activity activity;
    Watchdog watchdog(rank, 3, store, activity,
                      [](const std::string& text, int64_t) { ADD_FAILURE() << text; });
    watchdog.FinishTogether(30);
  });
}

}  // namespace
}  // namespace graft::parallel
