#include "worker/parallel/group.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace graft::parallel {
namespace {

// Up to so many bytes and ranks everybody sends to everybody: one hop instead of a ring's many.
constexpr int64_t kExchangeBytes = 1 << 16;
constexpr int64_t kExchangeRanks = 16;

// Messages of the group's own collectives; a caller's tags stand above.
constexpr int kCollectiveTag = 0;

}  // namespace

void Pending::Wait() {
  if (works_.empty()) return;
  activity_->Wait(what_, *with_, kind_, [&] {
    for (const auto& work : works_) work->wait();
  });
  works_.clear();
  kept_.clear();
}

Group::Group(Ranks ranks, int64_t own, c10::intrusive_ptr<c10d::Backend> backend,
             Activity& activity, WaitKind kind)
    : ranks_(std::move(ranks)),
      text_(RanksText(ranks_)),
      backend_(std::move(backend)),
      activity_(activity),
      kind_(kind) {
  const auto found = std::find(ranks_.begin(), ranks_.end(), own);
  GRAFT_CHECK(found != ranks_.end()) << "rank " << own << " is not among " << text_;
  GRAFT_CHECK(backend_.defined() || size() == 1) << text_;
  index_ = found - ranks_.begin();
}

Pending Group::Start(const char* what) {
  Pending pending;
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
  if (x.nbytes() <= static_cast<size_t>(kExchangeBytes) && size() <= kExchangeRanks) {
    const at::Tensor all = Exchange(x, what);
    const at::Tensor result = op == Reduce::kSum ? all.sum(0) : all.amax(0);
    x.copy_(result.view(x.sizes()));
    return;
  }
  Pending pending = Start(what);
  at::Tensor flat = x.contiguous();
  std::vector<at::Tensor> tensors = {flat};
  c10d::AllreduceOptions options;
  options.reduceOp = op == Reduce::kSum ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX;
  pending.works_.push_back(backend_->allreduce(tensors, options));
  pending.Wait();
  if (!x.is_contiguous()) x.copy_(flat);
}

Pending Group::StartSum(at::Tensor x, const char* what) {
  Pending pending = Start(what);
  if (size() == 1) return pending;
  std::vector<at::Tensor> tensors = {x};
  pending.works_.push_back(backend_->allreduce(tensors));
  pending.kept_.push_back(std::move(x));
  return pending;
}

Pending Group::StartScatter(const at::Tensor& x, at::Tensor parts, const char* what) {
  const int64_t rows = x.size(0) / size();
  GRAFT_CHECK(rows * size() == x.size(0) && x.is_contiguous()) << what << ": " << x.sizes();
  Pending pending = Start(what);
  parts[index_].copy_(x.narrow(0, index_ * rows, rows));
  for (int64_t step = 1; step < size(); ++step) {
    const int64_t from = (index_ + size() - step) % size();
    std::vector<at::Tensor> tensors = {parts[from]};
    pending.works_.push_back(backend_->recv(tensors, static_cast<int>(from), kCollectiveTag));
  }
  for (int64_t step = 1; step < size(); ++step) {
    const int64_t to = (index_ + step) % size();
    std::vector<at::Tensor> tensors = {x.narrow(0, to * rows, rows)};
    pending.works_.push_back(backend_->send(tensors, static_cast<int>(to), kCollectiveTag));
  }
  pending.kept_ = {x, std::move(parts)};
  return pending;
}

// Direct: each piece goes to its owner, who adds them in the order of the ranks.
at::Tensor Group::SumScatter(const at::Tensor& x, const char* what) {
  if (size() == 1) return x;
  const at::Tensor whole = x.contiguous();
  std::vector<int64_t> shape = whole.sizes().vec();
  shape[0] /= size();
  shape.insert(shape.begin(), size());
  at::Tensor parts = at::empty(shape, whole.options());
  StartScatter(whole, parts, what).Wait();
  return parts.sum(0);
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
  Pending pending = Start(what);
  const int64_t rows = own.size(0);
  out.narrow(0, index_ * rows, rows).copy_(own);
  if (size() == 1) return pending;
  for (int64_t step = 1; step < size(); ++step) {
    const int64_t from = (index_ + size() - step) % size();
    std::vector<at::Tensor> tensors = {out.narrow(0, from * rows, rows)};
    pending.works_.push_back(backend_->recv(tensors, static_cast<int>(from), kCollectiveTag));
  }
  for (int64_t step = 1; step < size(); ++step) {
    const int64_t to = (index_ + step) % size();
    std::vector<at::Tensor> tensors = {own};
    pending.works_.push_back(backend_->send(tensors, static_cast<int>(to), kCollectiveTag));
  }
  pending.kept_ = {own, std::move(out)};
  return pending;
}

Pending Group::Send(at::Tensor x, int64_t to, int tag, const char* what) {
  Pending pending = Start(what);
  at::Tensor whole = x.contiguous();
  std::vector<at::Tensor> tensors = {whole};
  pending.works_.push_back(backend_->send(tensors, static_cast<int>(to), tag + 1));
  pending.kept_.push_back(std::move(whole));
  return pending;
}

Pending Group::StartReceive(at::Tensor x, int64_t from, int tag, const char* what) {
  Pending pending = Start(what);
  std::vector<at::Tensor> tensors = {x};
  pending.works_.push_back(backend_->recv(tensors, static_cast<int>(from), tag + 1));
  pending.kept_.push_back(std::move(x));
  return pending;
}

void Group::Receive(at::Tensor x, int64_t from, int tag, const char* what) {
  StartReceive(std::move(x), from, tag, what).Wait();
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
  const auto begin = [](const std::vector<int64_t>& sizes, int64_t i) {
    int64_t sum = 0;
    for (int64_t j = 0; j < i; ++j) sum += sizes[j];
    return sum;
  };
  Pending pending = Start(what);
  for (int64_t step = 0; step < size(); ++step) {
    const int64_t from = (index_ + size() - step) % size();
    if (expected[from] == 0) continue;
    at::Tensor into = out.narrow(0, begin(expected, from), expected[from]);
    if (from == index_) {
      into.copy_(rows.narrow(0, begin(counts, from), counts[from]));
      continue;
    }
    std::vector<at::Tensor> tensors = {into};
    pending.works_.push_back(backend_->recv(tensors, static_cast<int>(from), kCollectiveTag));
  }
  for (int64_t step = 1; step < size(); ++step) {
    const int64_t to = (index_ + step) % size();
    if (counts[to] == 0) continue;
    std::vector<at::Tensor> tensors = {rows.narrow(0, begin(counts, to), counts[to])};
    pending.works_.push_back(backend_->send(tensors, static_cast<int>(to), kCollectiveTag));
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
