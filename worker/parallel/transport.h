// How the members of a group move bytes between them: over a c10d backend (gloo_backend.h), or
// through memory that the ranks of one host share (shared_memory.h). Members are named by their
// index in the group. Messages between two of them are matched by tag; those of one tag arrive in
// the order in which they were sent.
//
// Everything throws c10::Error when a member is lost. One thread drives a transport.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <utility>
#include <vector>

namespace graft::parallel {

enum class Reduce { kSum, kMax };

// A message under way. Tensors that it was given live until Wait has returned.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual void Wait() = 0;
};
using Transfers = std::vector<std::unique_ptr<Transfer>>;

// What a c10d backend has under way, which keeps `kept` until then.
std::unique_ptr<Transfer> TransferOf(c10::intrusive_ptr<c10d::Work> work,
                                     std::vector<at::Tensor> kept);

class Transport {
 public:
  virtual ~Transport() = default;
  // `x` to each of `to`; contiguous, unchanged until waited for. What has no transfer left to wait
  // for adds none to `started`.
  virtual void Send(const at::Tensor& x, const std::vector<int64_t>& to, int tag,
                    Transfers& started) = 0;
  // `into` is contiguous.
  virtual void Receive(at::Tensor into, int64_t from, int tag, Transfers& started) = 0;
  // `out` becomes the sum over all members, in their order, of what each has sent with that tag and
  // of `own` in this one's place. `out` and `own` are contiguous; they may be the same tensor.
  virtual void ReceiveSum(at::Tensor out, at::Tensor own, int tag, Transfers& started) = 0;
};

// Adds `pieces` of all members in their order into `out`, which may be the piece of member `index`.
// Two numbers have the same sum in either order, so every member gets the same bits.
void SumInOrder(const std::vector<at::Tensor>& pieces, int64_t index, at::Tensor& out);

// Messages of a c10d backend among `size` members.
class BackendTransport final : public Transport {
 public:
  BackendTransport(c10::intrusive_ptr<c10d::Backend> backend, int64_t index, int64_t size)
      : backend_(std::move(backend)), index_(index), size_(size) {}
  void Send(const at::Tensor& x, const std::vector<int64_t>& to, int tag,
            Transfers& started) override;
  void Receive(at::Tensor into, int64_t from, int tag, Transfers& started) override;
  void ReceiveSum(at::Tensor out, at::Tensor own, int tag, Transfers& started) override;

 private:
  const c10::intrusive_ptr<c10d::Backend> backend_;
  const int64_t index_;
  const int64_t size_;
};

}  // namespace graft::parallel
