#include "worker/parallel/watchdog.h"

#include <c10/util/Exception.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/json.h"
#include "base/log.h"
#include "worker/parallel/topology.h"

namespace graft::parallel {
namespace {

constexpr double kBeatSeconds = 1;
// Once this rank is done it waits for the others alone: look often.
constexpr double kDoneBeatSeconds = 0.05;
constexpr double kJudgeSeconds = 0.5;

std::string BeatKey(int64_t rank) { return absl::StrCat("beat/", rank); }

}  // namespace

std::string Beat::Format() const {
  Json json = Json::MakeObject();
  json.Set("count", count);
  json.Set("training", state.training);
  json.Set("step", state.step);
  json.Set("ticks", state.ticks);
  json.Set("waiting", state.waiting);
  json.Set("what", state.what);
  json.Set("with", state.with);
  json.Set("broken", state.broken);
  json.Set("failure", failure);
  json.Set("done", done);
  json.Set("left", left);
  return json.Dump();
}

Beat Beat::Parse(const std::string& text) {
  Beat beat;
  const auto json = Json::Parse(text);
  if (!json.ok() || !json->is_object()) return beat;
  beat.count = json->GetInt("count");
  beat.state.training = json->GetBool("training");
  beat.state.step = json->GetInt("step");
  beat.state.ticks = json->GetInt("ticks");
  beat.state.waiting = json->GetBool("waiting");
  beat.state.what = json->GetString("what");
  beat.state.with = json->GetString("with");
  beat.state.broken = json->GetBool("broken");
  beat.failure = json->GetString("failure");
  beat.done = json->GetBool("done");
  beat.left = json->GetBool("left");
  return beat;
}

BeatJudge::BeatJudge(int64_t world, int64_t own, Limits limits)
    : own_(own), limits_(limits), ranks_(static_cast<size_t>(world)) {}

void BeatJudge::Observe(const std::vector<Beat>& beats, double now) {
  for (size_t r = 0; r < ranks_.size() && r < beats.size(); ++r) {
    Seen& seen = ranks_[r];
    if (!seen.observed || beats[r].count != seen.beat.count) seen.alive = now;
    if (!seen.observed || beats[r].state.ticks != seen.beat.state.ticks) seen.progress = now;
    seen.beat = beats[r];
    seen.observed = true;
  }
}

std::string BeatJudge::Where() const {
  const Seen* waiting = nullptr;
  if (ranks_[static_cast<size_t>(own_)].beat.state.waiting) {
    waiting = &ranks_[static_cast<size_t>(own_)];
  }
  for (const Seen& seen : ranks_) {
    if (waiting == nullptr && seen.beat.state.waiting) waiting = &seen;
  }
  if (waiting == nullptr) return "no other rank waited for it yet";
  return absl::StrCat("the others waited in \"", waiting->beat.state.what, "\" of ranks ",
                      waiting->beat.state.with, " at step ", waiting->beat.state.step);
}

absl::optional<std::string> BeatJudge::Verdict(double now) const {
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Seen& seen = ranks_[r];
    if (static_cast<int64_t>(r) == own_ || seen.beat.failure.empty()) continue;
    return absl::StrCat("rank ", r, " failed at step ", seen.beat.state.step, ": ",
                        seen.beat.failure);
  }
  Ranks silent, still, stuck;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const Seen& seen = ranks_[r];
    if (!seen.observed || seen.beat.done) continue;
    const int64_t rank = static_cast<int64_t>(r);
    if (rank != own_ && now - seen.alive > limits_.silent_seconds) silent.push_back(rank);
    if (!seen.beat.state.training || now - seen.progress <= limits_.still_seconds) continue;
    (seen.beat.state.waiting ? stuck : still).push_back(rank);
  }
  if (!silent.empty()) {
    const Seen& first = ranks_[static_cast<size_t>(silent.front())];
    return absl::StrCat("rank ", RanksText(silent), " is lost: no sign of life for ",
                        static_cast<int64_t>(now - first.alive), " s, the last one at step ",
                        first.beat.state.step, "; ", Where());
  }
  if (!stuck.empty() && !still.empty()) {
    const Seen& first = ranks_[static_cast<size_t>(still.front())];
    return absl::StrCat("rank ", RanksText(still), " hangs: no progress for ",
                        static_cast<int64_t>(now - first.progress), " s at step ",
                        first.beat.state.step, "; ", Where());
  }
  if (stuck.size() == ranks_.size()) {
    std::string text = "the ranks wait for each other";
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Activity::Snapshot& state = ranks_[r].beat.state;
      absl::StrAppend(&text, r == 0 ? ": " : "; ", "rank ", r, " at step ", state.step, " in \"",
                      state.what, "\" of ranks ", state.with);
    }
    return text;
  }
  return absl::nullopt;
}

Watchdog::Watchdog(int64_t rank, int64_t world, StorePtr store, const Activity& activity, Lost lost,
                   BeatJudge::Limits limits)
    : rank_(rank),
      world_(world),
      store_(store->clone()),
      activity_(activity),
      lost_(std::move(lost)),
      judge_(world, rank, limits),
      limits_(limits) {
  beating_ = std::thread([this] { BeatLoop(); });
  judging_ = std::thread([this] { JudgeLoop(); });
}

double Watchdog::Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool Watchdog::Pause(double seconds) {
  MutexLock lock(mu_);
  if (!stopping_) changed_.WaitFor(mu_, absl::Seconds(seconds));
  return !stopping_;
}

void Watchdog::Say(bool left) {
  Beat own;
  own.count = ++count_;
  own.state = activity_.Now();
  own.left = left;
  {
    MutexLock lock(mu_);
    own.failure = failure_;
    own.done = done_;
  }
  const std::string text = own.Format();
  store_->set(BeatKey(rank_), std::vector<uint8_t>(text.begin(), text.end()));
}

bool Watchdog::Beats() {
  Say(/*left=*/false);
  std::vector<std::string> keys;
  for (int64_t r = 0; r < world_; ++r) keys.push_back(BeatKey(r));
  std::vector<Beat> beats;
  bool all_done = true;
  for (const std::vector<uint8_t>& bytes : store_->multiGet(keys)) {
    beats.push_back(Beat::Parse(std::string(bytes.begin(), bytes.end())));
    const Beat& beat = beats.back();
    // Rank 0 takes the store with it, and so waits until the others have left.
    const bool waits_for_it = rank_ == 0 && beats.size() > 1;
    all_done = all_done && ((waits_for_it ? beat.left : beat.done) || !beat.failure.empty());
  }
  if (all_done && rank_ != 0) Say(/*left=*/true);
  MutexLock lock(mu_);
  judge_.Observe(beats, Now());
  round_ = Now();
  all_done_ = all_done;
  changed_.SignalAll();
  return all_done;
}

void Watchdog::BeatLoop() {
  bool done = false;
  bool told = false;
  do {
    try {
      if (Beats()) return;
    } catch (const c10::Error& error) {
      MutexLock lock(mu_);
      if (done_ || stopping_) {
        all_done_ = true;  // the store went with the last rank
        changed_.SignalAll();
        return;
      }
      // The judge sees that no round comes any more.
      if (!told) {
        LOG_WARNING("the ranks' store does not answer", {{"why", error.what_without_backtrace()}});
      }
      told = true;
    }
    MutexLock lock(mu_);
    done = done_;
  } while (Pause(done ? kDoneBeatSeconds : kBeatSeconds));
}

void Watchdog::JudgeLoop() {
  while (Pause(kJudgeSeconds)) {
    absl::optional<std::string> verdict;
    {
      MutexLock lock(mu_);
      if (round_ == 0 || done_ || !failure_.empty()) continue;
      const double now = Now();
      if (now - round_ > limits_.silent_seconds) {
        const Activity::Snapshot state = activity_.Now();
        verdict = absl::StrCat(
            "rank 0 is lost: the store that it holds has not answered for ",
            static_cast<int64_t>(now - round_), " s; rank ", rank_,
            state.waiting ? absl::StrCat(" waited in \"", state.what, "\" of ranks ", state.with)
                          : std::string(" was computing"),
            " at step ", state.step);
      } else {
        verdict = judge_.Verdict(now);
      }
    }
    if (!verdict.has_value()) continue;
    lost_(*verdict, activity_.Now().step);
    return;
  }
}

void Watchdog::Fail(const std::string& why) {
  MutexLock lock(mu_);
  failure_ = why.empty() ? "unknown" : why;
  changed_.SignalAll();
}

void Watchdog::FinishTogether(double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  MutexLock lock(mu_);
  if (failure_.empty()) done_ = true;
  changed_.SignalAll();
  while (!all_done_ && !stopping_) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    changed_.WaitFor(mu_, left);
  }
}

void Watchdog::Stay(double seconds) {
  const absl::Time deadline = absl::Now() + absl::Seconds(seconds);
  MutexLock lock(mu_);
  while (!stopping_) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return;
    changed_.WaitFor(mu_, left);
  }
}

void Watchdog::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.SignalAll();
  }
  if (judging_.joinable()) judging_.join();
  if (beating_.joinable()) beating_.join();
}

}  // namespace graft::parallel
