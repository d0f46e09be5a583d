#include "worker/parallel/group.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace graft::parallel {
namespace {

// A sum of up to so many bytes is made by everybody of everybody's numbers: one exchange, not two.
constexpr size_t kExchangeBytes = 1 << 16;
constexpr int64_t kExchangeRanks = 16;

// Messages of the group's own collectives; a caller's tags stand above.
enum Tag { kPieces, kSums, kCallers };

// Elements [begin, begin + count) of `x` that member `i` of `size` sums.
at::Tensor PieceOf(const at::Tensor& x, int64_t i, int64_t size) {
  const int64_t begin = x.numel() * i / size;
  return x.view({-1}).narrow(0, begin, x.numel() * (i + 1) / size - begin);
}

// The second half of a sum of everything: when its own piece is summed, that goes to all others.
class SpreadSums final : public Transfer {
 public:
  SpreadSums(Transport& transport, Transfers pieces, at::Tensor x, int64_t index,
             const std::vector<int64_t>& others)
      : transport_(transport),
        pieces_(std::move(pieces)),
        x_(std::move(x)),
        index_(index),
        others_(others) {}
  void Wait() override {
    for (const auto& transfer : pieces_) transfer->Wait();
    const int64_t size = static_cast<int64_t>(others_.size()) + 1;
    Transfers sums;
    for (const int64_t from : others_) {
      transport_.Receive(PieceOf(x_, from, size), from, kSums, sums);
    }
    transport_.Send(PieceOf(x_, index_, size), others_, kSums, sums);
    for (const auto& transfer : sums) transfer->Wait();
  }

 private:
  Transport& transport_;
  const Transfers pieces_;
  const at::Tensor x_;
  const int64_t index_;
  const std::vector<int64_t>& others_;
};

}  // namespace

void Pending::Wait() {
  if (transfers_.empty()) return;
  activity_->WaitOn(device_, what_, *with_, kind_, [&] {
    for (const auto& transfer : transfers_) transfer->Wait();
  });
  transfers_.clear();
  kept_.clear();
}

Group::Group(Ranks ranks, int64_t own, std::unique_ptr<Transport> transport,
             std::unique_ptr<DeviceCollectives> device, Activity& activity, WaitKind kind)
    : ranks_(std::move(ranks)),
      text_(RanksText(ranks_)),
      transport_(std::move(transport)),
      device_(std::move(device)),
      activity_(activity),
      kind_(kind) {
  const auto found = std::find(ranks_.begin(), ranks_.end(), own);
  GRAFT_CHECK(found != ranks_.end()) << "rank " << own << " is not among " << text_;
  GRAFT_CHECK(transport_ != nullptr || size() == 1) << text_;
  index_ = found - ranks_.begin();
  for (int64_t step = 1; step < size(); ++step) others_.push_back((index_ + step) % size());
}

Pending Group::Start(const at::Tensor& x, const char* what) {
  Pending pending;
  if (OnDevice(x)) pending.device_ = x.device();
  pending.activity_ = &activity_;
  pending.what_ = what;
  pending.with_ = &text_;
  pending.kind_ = kind_;
  return pending;
}

at::Tensor Group::Exchange(const at::Tensor& own, const char* what) {
  at::Tensor all = at::empty({size(), own.numel()}, own.options());
  StartGather(own.contiguous().view({1, -1}), all, what).Wait();
  return all;
}

void Group::AllReduce(at::Tensor& x, Reduce op, const char* what) {
  if (size() == 1) return;
  if (OnDevice(x)) {
    const at::Tensor flat = x.contiguous();
    Pending pending = Start(flat, what);
    device_->AllReduce(flat, op, pending.transfers_);
    pending.Wait();
    if (!x.is_contiguous()) x.copy_(flat);
    return;
  }
  if (op == Reduce::kMax || (x.nbytes() <= kExchangeBytes && size() <= kExchangeRanks)) {
    const at::Tensor all = Exchange(x, what);
    const at::Tensor result = op == Reduce::kSum ? all.sum(0) : all.amax(0);
    x.copy_(result.view(x.sizes()));
    return;
  }
  at::Tensor flat = x.contiguous();
  StartSum(flat, what).Wait();
  if (!x.is_contiguous()) x.copy_(flat);
}

Pending Group::StartSum(at::Tensor x, const char* what) {
  Pending pending = Start(x, what);
  if (size() == 1) return pending;
  if (OnDevice(x)) {
    device_->AllReduce(x, Reduce::kSum, pending.transfers_);
    return pending;
  }
  const at::Tensor own = PieceOf(x, index_, size());
  Transfers pieces;
  transport_->ReceiveSum(own, own, kPieces, pieces);
  for (const int64_t to : others_) transport_->Send(PieceOf(x, to, size()), {to}, kPieces, pieces);
  pending.transfers_.push_back(
      std::make_unique<SpreadSums>(*transport_, std::move(pieces), std::move(x), index_, others_));
  return pending;
}

Pending Group::StartScatter(const at::Tensor& x, at::Tensor out, const char* what) {
  const int64_t rows = x.size(0) / size();
  GRAFT_CHECK(rows * size() == x.size(0) && x.is_contiguous()) << what << ": " << x.sizes();
  Pending pending = Start(x, what);
  const at::Tensor own = x.narrow(0, index_ * rows, rows);
  if (size() == 1) {
    out.copy_(own);
    return pending;
  }
  if (OnDevice(x)) {
    device_->SumScatter(x, out, pending.transfers_);
    return pending;
  }
  transport_->ReceiveSum(std::move(out), own, kPieces, pending.transfers_);
  for (const int64_t to : others_) {
    transport_->Send(x.narrow(0, to * rows, rows), {to}, kPieces, pending.transfers_);
  }
  pending.kept_ = {x};
  return pending;
}

at::Tensor Group::SumScatter(const at::Tensor& x, const char* what) {
  if (size() == 1) return x;
  const at::Tensor whole = x.contiguous();
  std::vector<int64_t> shape = whole.sizes().vec();
  shape[0] /= size();
  at::Tensor sum = at::empty(shape, whole.options());
  StartScatter(whole, sum, what).Wait();
  return sum;
}

at::Tensor Group::Gather(const at::Tensor& own, const char* what) {
  if (size() == 1) return own;
  std::vector<int64_t> shape = own.sizes().vec();
  shape[0] *= size();
  at::Tensor all = at::empty(shape, own.options());
  StartGather(own.contiguous(), all, what).Wait();
  return all;
}

Pending Group::StartGather(const at::Tensor& own, at::Tensor out, const char* what) {
  Pending pending = Start(own, what);
  if (size() > 1 && OnDevice(own)) {
    device_->Gather(own, out, pending.transfers_);
    pending.kept_ = {own};
    return pending;
  }
  const int64_t rows = own.size(0);
  const auto place = [&](int64_t member) { return out.narrow(0, member * rows, rows); };
  if (size() > 1) {
    for (const int64_t from : others_) {
      transport_->Receive(place(from), from, kPieces, pending.transfers_);
    }
    transport_->Send(own, others_, kPieces, pending.transfers_);
  }
  place(index_).copy_(own);
  pending.kept_ = {own};
  return pending;
}

Pending Group::Send(at::Tensor x, int64_t to, int tag, const char* what) {
  Pending pending = Start(x, what);
  if (OnDevice(x)) {
    device_->Send(x.contiguous(), to, tag, pending.transfers_);
  } else {
    transport_->Send(x.contiguous(), {to}, kCallers + tag, pending.transfers_);
  }
  return pending;
}

Pending Group::StartReceive(at::Tensor x, int64_t from, int tag, const char* what) {
  Pending pending = Start(x, what);
  if (OnDevice(x)) {
    device_->Receive(x, from, tag, pending.transfers_);
  } else {
    transport_->Receive(std::move(x), from, kCallers + tag, pending.transfers_);
  }
  return pending;
}

void Group::Receive(at::Tensor x, int64_t from, int tag, const char* what) {
  StartReceive(std::move(x), from, tag, what).Wait();
}

at::Tensor Group::HandOn(const at::Tensor& own, int64_t to, int64_t from, const char* what) {
  at::Tensor came = at::empty_like(own);
  Pending pending = Start(own, what);
  if (OnDevice(own)) {
    const auto rows_of = [&](int64_t member) {
      std::vector<int64_t> counts(ranks_.size());
      counts[static_cast<size_t>(member)] = own.size(0);
      return counts;
    };
    device_->AllToAll(own, rows_of(to), came, rows_of(from), pending.transfers_);
  } else {
    transport_->Receive(came, from, kPieces, pending.transfers_);
    transport_->Send(own, {to}, kPieces, pending.transfers_);
  }
  pending.Wait();
  return came;
}

at::Tensor Group::AllToAll(const at::Tensor& x, const std::vector<int64_t>& counts,
                           const std::vector<int64_t>& expected, const char* what) {
  if (size() == 1) return x;
  const at::Tensor rows = x.contiguous();
  int64_t total = 0;
  for (int64_t count : expected) total += count;
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] = total;
  at::Tensor out = at::empty(shape, rows.options());
  Pending pending = Start(rows, what);
  if (OnDevice(rows)) {
    device_->AllToAll(rows, counts, out, expected, pending.transfers_);
    pending.Wait();
    return out;
  }
  const auto begin = [](const std::vector<int64_t>& sizes, int64_t i) {
    int64_t sum = 0;
    for (int64_t j = 0; j < i; ++j) sum += sizes[j];
    return sum;
  };
  const auto from = [&](int64_t member) {
    return out.narrow(0, begin(expected, member), expected[member]);
  };
  const auto to = [&](int64_t member) {
    return rows.narrow(0, begin(counts, member), counts[member]);
  };
  from(index_).copy_(to(index_));
  for (const int64_t member : others_) {
    if (expected[member] == 0) continue;
    transport_->Receive(from(member), member, kPieces, pending.transfers_);
  }
  for (const int64_t member : others_) {
    if (counts[member] > 0) transport_->Send(to(member), {member}, kPieces, pending.transfers_);
  }
  pending.Wait();
  return out;
}

std::vector<int64_t> ExpertGroup::ShareCounts(const std::vector<int64_t>& counts,
                                              const char* what) {
  const std::vector<int64_t> one(counts.size(), 1);
  const at::Tensor mine = at::tensor(at::ArrayRef<int64_t>(counts), at::kLong).view({-1, 1});
  const at::Tensor theirs = group_.AllToAll(mine, one, one, what);
  const int64_t* data = theirs.const_data_ptr<int64_t>();
  return {data, data + theirs.numel()};
}

}  // namespace graft::parallel
