#include "worker/parallel/device_collectives.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::parallel {
namespace {

c10d::ReduceOp::RedOpType TypeOf(Reduce op) {
  return op == Reduce::kSum ? c10d::ReduceOp::SUM : c10d::ReduceOp::MAX;
}

}  // namespace

DeviceCollectives::DeviceCollectives(int64_t index, int64_t size, at::Device device,
                                     Connect connect)
    : index_(index), size_(size), device_(device), connect_(std::move(connect)) {}

DeviceCollectives::~DeviceCollectives() {
  // Ends with what is under way, which a member that is lost would never finish.
  for (BackendPtr& lane : lanes_) {
    if (lane != nullptr) lane->abort();
  }
  if (all_ != nullptr) all_->abort();
}

c10d::Backend& DeviceCollectives::All() {
  if (all_ == nullptr) all_ = connect_("all");
  return *all_;
}

c10d::Backend& DeviceCollectives::Lane(int64_t from, int64_t to, int tag) {
  const int lane = (from < to ? 0 : 2) + tag % 2;
  BackendPtr& backend = lanes_[static_cast<size_t>(lane)];
  if (backend == nullptr) backend = connect_(absl::StrCat("lane ", lane));
  return *backend;
}

void DeviceCollectives::ConnectNeighbours() {
  at::Tensor nothing = at::zeros({1}, at::TensorOptions().device(device_));
  for (int tag = 0; tag < 2; ++tag) {
    for (int64_t one = 0; one < size_; ++one) {
      const int64_t next = (one + 1) % size_;
      for (const auto& [from, to] : {std::pair(one, next), std::pair(next, one)}) {
        Transfers started;
        if (index_ == from) Send(nothing, to, tag, started);
        if (index_ == to) Receive(nothing, from, tag, started);
        for (const auto& transfer : started) transfer->Wait();
      }
    }
  }
}

void DeviceCollectives::AllReduce(const at::Tensor& x, Reduce op, Transfers& started) {
  std::vector<at::Tensor> tensors = {x};
  c10d::AllreduceOptions options;
  options.reduceOp = TypeOf(op);
  started.push_back(TransferOf(All().allreduce(tensors, options), {x}));
}

void DeviceCollectives::SumScatter(const at::Tensor& x, const at::Tensor& out, Transfers& started) {
  at::Tensor from = x.view({-1}), to = out.view({-1});
  started.push_back(TransferOf(All()._reduce_scatter_base(to, from), {x, out}));
}

void DeviceCollectives::Gather(const at::Tensor& own, const at::Tensor& out, Transfers& started) {
  at::Tensor from = own.view({-1}), to = out.view({-1});
  started.push_back(TransferOf(All()._allgather_base(to, from), {own, out}));
}

void DeviceCollectives::AllToAll(const at::Tensor& x, const std::vector<int64_t>& counts,
                                 const at::Tensor& out, const std::vector<int64_t>& expected,
                                 Transfers& started) {
  at::Tensor from = x, to = out;
  std::vector<int64_t> rows_to = counts, rows_from = expected;
  started.push_back(TransferOf(All().alltoall_base(to, from, rows_from, rows_to), {x, out}));
}

void DeviceCollectives::Send(const at::Tensor& x, int64_t to, int tag, Transfers& started) {
  std::vector<at::Tensor> tensors = {x};
  started.push_back(
      TransferOf(Lane(index_, to, tag).send(tensors, static_cast<int>(to), /*tag=*/0), {x}));
}

void DeviceCollectives::Receive(const at::Tensor& into, int64_t from, int tag, Transfers& started) {
  std::vector<at::Tensor> tensors = {into};
  started.push_back(
      TransferOf(Lane(from, index_, tag).recv(tensors, static_cast<int>(from), /*tag=*/0), {into}));
}

}  // namespace graft::parallel
