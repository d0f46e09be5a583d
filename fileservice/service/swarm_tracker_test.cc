// The tracker alone, and with a thousand workers whose network is counted in slots.
#include "fileservice/service/swarm_tracker.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "gmock/gmock.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(PieceSetTest, BytesAndBackAndChoosingTheRarest) {
  SeededRandom random(1);
  PieceSet set(130);
  for (const uint32_t piece : {0u, 63u, 64u, 129u}) EXPECT_TRUE(set.Add(piece));
  EXPECT_FALSE(set.Add(129));
  const PieceSet same = PieceSet::FromBytes(set.Bytes() + "\xff", 130);
  EXPECT_EQ(same.count(), 4u);
  EXPECT_TRUE(same.Has(129));
  std::vector<uint32_t> copies(130, 5);
  PieceSet taken(130);
  taken.Add(0);
  taken.Add(64);
  taken.Add(129);
  EXPECT_EQ(set.Choose(taken, copies, random), 63u);
  taken.Add(63);
  EXPECT_EQ(set.Choose(taken, copies, random), std::nullopt);
  EXPECT_EQ(PieceSet().Choose(PieceSet(), {}, random), std::nullopt);
}

TEST(SwarmTrackerTest, ThePiecesAreScatteredAndSentOnce) {
  SeededRandom random(2);
  SwarmTracker tracker(5, {.origin_at_once = 2}, random);
  const auto a = tracker.Join("a");
  const auto b = tracker.Join("b");
  EXPECT_THAT(tracker.PlanFor(a).from_origin, ElementsAre(0, 1));
  EXPECT_THAT(tracker.PlanFor(b).from_origin, ElementsAre(2, 3));
  EXPECT_THAT(tracker.PlanFor(a).from_origin, IsEmpty());
  tracker.Completed(a, 0);
  EXPECT_THAT(tracker.PlanFor(a).from_origin, ElementsAre(4));
  const SwarmTracker::Plan told = tracker.PlanFor(b);
  ASSERT_EQ(told.peers.size(), 1u);
  EXPECT_EQ(told.peers[0].address, "a");
  EXPECT_TRUE(told.peers[0].pieces->Has(0));
  EXPECT_TRUE(tracker.PlanFor(b).empty());
  EXPECT_EQ(tracker.origin_pieces(), 5);
}

TEST(SwarmTrackerTest, WhatALeaverAloneHadComesFromTheOriginAgain) {
  SeededRandom random(3);
  SwarmTracker tracker(3, {.origin_at_once = 1}, random);
  const auto a = tracker.Join("a");
  const auto b = tracker.Join("b");
  tracker.PlanFor(a);  // 0
  tracker.PlanFor(b);  // 1
  tracker.Completed(a, 0);
  tracker.Completed(b, 0);
  tracker.Completed(b, 1);
  tracker.PlanFor(a);  // 2, and a leaves with it under way
  tracker.Leave(a);
  const SwarmTracker::Plan plan = tracker.PlanFor(b);
  EXPECT_THAT(plan.from_origin, ElementsAre(2));
  EXPECT_THAT(plan.gone, ElementsAre("a"));
}

TEST(SwarmTrackerTest, ALiarLosesItsVictimAtOnceAndAllWhenSeveralSaySo) {
  SeededRandom random(4);
  SwarmTracker tracker(1, {.accusers = 2}, random);
  const auto liar = tracker.Join("liar");
  const auto a = tracker.Join("a");
  const auto b = tracker.Join("b");
  tracker.Join("c");
  tracker.Accuse(a, "liar");
  EXPECT_EQ(tracker.NeighboursOf(a).count(liar), 0u);
  // One word against another: nobody can drive others out alone.
  EXPECT_EQ(tracker.NeighboursOf(liar).size(), 2u);
  EXPECT_THAT(tracker.PlanFor(a).gone, ElementsAre("liar"));
  tracker.Accuse(b, "liar");
  EXPECT_THAT(tracker.NeighboursOf(liar), IsEmpty());
}

// Each slot a worker receives one piece and sends one; the origin sends `origin_rate`. Workers
// choose as real ones do; a share of them dies half way.
struct Outcome {
  int slots = 0;
  double origin_copies = 0;
};
Outcome Simulate(int workers, uint32_t pieces, int origin_rate, double dying, uint64_t seed) {
  SeededRandom random(seed);
  SwarmTracker tracker(pieces, {.origin_at_once = 1}, random);
  struct Worker {
    SwarmTracker::WorkerId id = 0;
    PieceSet have;
    std::vector<uint32_t> origin;  // told to fetch there
    bool alive = true;
    int sent_in_slot = -1;
  };
  std::vector<Worker> all(static_cast<size_t>(workers));
  for (Worker& worker : all) {
    worker.id = tracker.Join("w");
    worker.have = PieceSet(pieces);
  }
  std::vector<uint32_t> copies(pieces);
  int unfinished = workers;
  std::vector<size_t> order(all.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  Outcome outcome;
  for (int slot = 0; unfinished > 0 && slot < 20 * static_cast<int>(pieces); ++slot) {
    outcome.slots = slot + 1;
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Uniform(i)]);
    std::vector<std::pair<size_t, uint32_t>> arrivals;
    int origin_left = origin_rate;
    for (const size_t i : order) {
      Worker& worker = all[i];
      if (!worker.alive || worker.have.full()) continue;
      // A worker asks the tracker only while the origin has something to give.
      if (origin_left > 0) {
        for (const uint32_t piece : tracker.PlanFor(worker.id).from_origin) {
          worker.origin.push_back(piece);
        }
        if (!worker.origin.empty()) {
          arrivals.emplace_back(i, worker.origin.back());
          worker.origin.pop_back();
          --origin_left;
          continue;
        }
      }
      std::vector<size_t> senders;
      for (const SwarmTracker::WorkerId other : tracker.NeighboursOf(worker.id)) {
        const size_t at = static_cast<size_t>(other - 1);
        if (all[at].sent_in_slot != slot) senders.push_back(at);
      }
      while (!senders.empty()) {
        std::swap(senders[random.Uniform(senders.size())], senders.back());
        Worker& sender = all[senders.back()];
        senders.pop_back();
        const auto piece = sender.have.Choose(worker.have, copies, random);
        if (!piece.has_value()) continue;
        arrivals.emplace_back(i, *piece);
        sender.sent_in_slot = slot;
        break;
      }
    }
    for (const auto& [i, piece] : arrivals) {
      if (!all[i].have.Add(piece)) continue;
      ++copies[piece];
      tracker.Completed(all[i].id, piece);
      if (all[i].have.full()) --unfinished;
    }
    if (dying > 0 && slot == static_cast<int>(pieces) / 2) {
      for (size_t i = 0; i < static_cast<size_t>(dying * workers); ++i) {
        Worker& worker = all[order[i]];
        if (!worker.have.full()) --unfinished;
        worker.alive = false;
        tracker.Leave(worker.id);
      }
    }
  }
  EXPECT_EQ(unfinished, 0);
  outcome.origin_copies = static_cast<double>(tracker.origin_pieces()) / pieces;
  return outcome;
}

// The bound: every worker receives every piece, one a slot.
TEST(SwarmSimulationTest, AThousandWorkersComeWithinATenthOfTheBound) {
  const int workers = testing::ByTier(200, 1000, 1000);
  const uint32_t pieces = static_cast<uint32_t>(testing::ByTier(250, 500, 500));
  const Outcome outcome = Simulate(workers, pieces, 4, 0, 7);
  const double bound = pieces + std::ceil(std::log2(workers + 1)) - 1;
  RecordProperty("slots", outcome.slots);
  std::printf("%d workers, %u pieces: %d slots, bound %.0f, ratio %.3f, origin %.2f copies\n",
              workers, pieces, outcome.slots, bound, outcome.slots / bound, outcome.origin_copies);
  EXPECT_LE(outcome.slots, 1.10 * bound);
  EXPECT_LE(outcome.origin_copies, 2);
}

TEST(SwarmSimulationTest, WorkersThatDieHalfWayCostLittle) {
  const int workers = testing::ByTier(100, 1000, 1000);
  const Outcome outcome = Simulate(workers, 250, 4, 0.05, 8);
  EXPECT_LE(outcome.slots, 1.25 * 250);
  EXPECT_LE(outcome.origin_copies, 2);
}

}  // namespace
}  // namespace graft::fileservice
