// Collectives of tensors that lie on a device, over c10d backends that its maker brings (NCCL for
// NVIDIA's, behind worker/model/accelerator.h). Each is the backend's own, so how the links between
// the devices are used is its business. Nothing here waits: a transfer's Wait() makes the device's
// current stream wait for it.
//
// Such a backend knows no tags. Messages between two members go in lanes, by their direction and by
// whether their tag is even or odd; those of one lane must be received in the order in which they
// are sent (a pipeline's are: pipeline_schedule.h). Each lane is a backend of its own, so none
// waits behind another.
//
// One thread drives it.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <functional>
#include <string>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <vector>

#include "worker/parallel/transport.h"

namespace graft::parallel {

class DeviceCollectives {
 public:
  using BackendPtr = c10::intrusive_ptr<c10d::Backend>;
  // Makes the backend of that name among the members, all of whom call it.
  using Connect = std::function<BackendPtr(const std::string& name)>;
  DeviceCollectives(int64_t index, int64_t size, at::Device device, Connect connect);
  ~DeviceCollectives();
  DeviceCollectives(const DeviceCollectives&) = delete;
  DeviceCollectives& operator=(const DeviceCollectives&) = delete;

  bool Takes(const at::Tensor& x) const { return x.device().type() == device_.type(); }

  // Connects the lanes between neighbours in a ring, in one order on all members: a lane's first
  // message would otherwise keep its sender until its receiver is there.
  void ConnectNeighbours();

  // Tensors are contiguous and live until waited for.
  void AllReduce(const at::Tensor& x, Reduce op, Transfers& started);
  // `out` becomes this member's of as many equal pieces of the sum of `x` as there are members.
  void SumScatter(const at::Tensor& x, const at::Tensor& out, Transfers& started);
  // `out` becomes the `own` of all members in turn.
  void Gather(const at::Tensor& own, const at::Tensor& out, Transfers& started);
  // counts[i] rows of `x` for member i in turn; `out` becomes expected[i] rows of each.
  void AllToAll(const at::Tensor& x, const std::vector<int64_t>& counts, const at::Tensor& out,
                const std::vector<int64_t>& expected, Transfers& started);
  void Send(const at::Tensor& x, int64_t to, int tag, Transfers& started);
  void Receive(const at::Tensor& into, int64_t from, int tag, Transfers& started);

 private:
  static constexpr int kLanes = 4;
  c10d::Backend& All();
  c10d::Backend& Lane(int64_t from, int64_t to, int tag);

  const int64_t index_;
  const int64_t size_;
  const at::Device device_;
  const Connect connect_;
  BackendPtr all_;  // each is made when it is first used
  std::array<BackendPtr, kLanes> lanes_;
};

}  // namespace graft::parallel
