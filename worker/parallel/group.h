// Some ranks that talk to each other: every collective of the platform is one of these methods, and
// each names itself (`what`) to the rank's Activity, so that whoever waits can say for what.
//
// All members make the same calls in the same order, waiting for sums among them; sends and
// receives are matched by their tags. Tensors on a device go over its own collectives where the
// group has such (device_collectives.h), all others over the transport, directly: every member
// sends to every other what is his. Every member gets the same bits of a sum. Everything throws
// c10::Error when a member is lost, which TorchCall (worker/model/torch_boundary.h) turns into a
// status. One thread drives a group; the Activity must outlive it.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "worker/model/division.h"
#include "worker/parallel/activity.h"
#include "worker/parallel/device_collectives.h"
#include "worker/parallel/topology.h"
#include "worker/parallel/transport.h"

namespace graft::parallel {

// A collective under way. The tensors live until it has been waited for.
class Pending {
 public:
  Pending() = default;
  void Wait();

 private:
  friend class Group;
  Transfers transfers_;
  std::vector<at::Tensor> kept_;
  Activity* activity_ = nullptr;
  const char* what_ = "";
  const std::string* with_ = nullptr;
  WaitKind kind_ = WaitKind::kCommunication;
  at::Device device_ = at::kCPU;
};

class Group {
 public:
  // `transport` may be null where `ranks` is one rank: everything is then done at once. `device`
  // is null where tensors lie in the host's memory. `kind` is what waits in its collectives count
  // as.
  Group(Ranks ranks, int64_t own, std::unique_ptr<Transport> transport,
        std::unique_ptr<DeviceCollectives> device, Activity& activity,
        WaitKind kind = WaitKind::kCommunication);
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const Ranks& ranks() const { return ranks_; }
  int64_t size() const { return static_cast<int64_t>(ranks_.size()); }
  int64_t index() const { return index_; }  // of this rank
  Activity& activity() const { return activity_; }

  void AllReduce(at::Tensor& x, Reduce op, const char* what);
  // In place; `x` is contiguous.
  Pending StartSum(at::Tensor x, const char* what);
  // Of `x`, as many equal pieces as ranks, each rank gets the sum of its own.
  at::Tensor SumScatter(const at::Tensor& x, const char* what);
  Pending StartScatter(const at::Tensor& x, at::Tensor out, const char* what);
  // The pieces of all ranks, rank after rank along the first dimension.
  at::Tensor Gather(const at::Tensor& own, const char* what);
  Pending StartGather(const at::Tensor& own, at::Tensor out, const char* what);

  // To and from the member with that index. On a device see device_collectives.h for the order.
  Pending Send(at::Tensor x, int64_t to, int tag, const char* what);
  void Receive(at::Tensor x, int64_t from, int tag, const char* what);
  Pending StartReceive(at::Tensor x, int64_t from, int tag, const char* what);

  // `own` to the member `to`; what `from` sends in the same call, of the same shape.
  at::Tensor HandOn(const at::Tensor& own, int64_t to, int64_t from, const char* what);

  // Rows of `x`, `counts[i]` of them for member i in turn; what came, member after member, of which
  // member i sent `expected[i]` rows.
  at::Tensor AllToAll(const at::Tensor& x, const std::vector<int64_t>& counts,
                      const std::vector<int64_t>& expected, const char* what);

 private:
  Pending Start(const at::Tensor& x, const char* what);
  bool OnDevice(const at::Tensor& x) const { return device_ != nullptr && device_->Takes(x); }
  // Everybody's piece to everybody: few ranks and little to say.
  at::Tensor Exchange(const at::Tensor& own, const char* what);

  const Ranks ranks_;
  const std::string text_;
  int64_t index_ = 0;
  std::vector<int64_t> others_;  // the other members, the next one first
  const std::unique_ptr<Transport> transport_;
  const std::unique_ptr<DeviceCollectives> device_;
  Activity& activity_;
  const WaitKind kind_;
};

// A tensor- or context-parallel group as the model's modules see it.
class TensorExchange final : public model::Exchange {
 public:
  explicit TensorExchange(Group& group) : group_(group) {}
  int64_t size() const override { return group_.size(); }
  int64_t rank() const override { return group_.index(); }
  at::Tensor GatherRows(const at::Tensor& own, const char* what) override {
    return group_.Gather(own, what);
  }
  at::Tensor SumScatterRows(const at::Tensor& partial, const char* what) override {
    return group_.SumScatter(partial, what);
  }
  at::Tensor HandOn(const at::Tensor& own, int64_t to, int64_t from, const char* what) override {
    return group_.HandOn(own, to, from, what);
  }
  void Sum(at::Tensor& x, const char* what) override { group_.AllReduce(x, Reduce::kSum, what); }
  void Max(at::Tensor& x, const char* what) override { group_.AllReduce(x, Reduce::kMax, what); }

 private:
  Group& group_;
};

// The ranks that hold the experts of a layer together, likewise.
class ExpertGroup final : public model::ExpertExchange {
 public:
  explicit ExpertGroup(Group& group) : group_(group) {}
  int64_t size() const override { return group_.size(); }
  int64_t rank() const override { return group_.index(); }
  std::vector<int64_t> ShareCounts(const std::vector<int64_t>& counts, const char* what) override;
  at::Tensor AllToAll(const at::Tensor& rows, const std::vector<int64_t>& counts,
                      const std::vector<int64_t>& expected, const char* what) override {
    return group_.AllToAll(rows, counts, expected, what);
  }

 private:
  Group& group_;
};

}  // namespace graft::parallel
