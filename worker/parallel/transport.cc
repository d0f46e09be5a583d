#include "worker/parallel/transport.h"

#include <utility>

namespace graft::parallel {
namespace {

class WorkTransfer final : public Transfer {
 public:
  WorkTransfer(c10::intrusive_ptr<c10d::Work> work, std::vector<at::Tensor> kept)
      : work_(std::move(work)), kept_(std::move(kept)) {}
  void Wait() override { work_->wait(); }

 private:
  const c10::intrusive_ptr<c10d::Work> work_;
  const std::vector<at::Tensor> kept_;
};

class SumTransfer final : public Transfer {
 public:
  SumTransfer(std::vector<at::Tensor> pieces, int64_t index, at::Tensor out, Transfers received)
      : pieces_(std::move(pieces)),
        index_(index),
        out_(std::move(out)),
        received_(std::move(received)) {}
  void Wait() override {
    for (const auto& transfer : received_) transfer->Wait();
    SumInOrder(pieces_, index_, out_);
  }

 private:
  const std::vector<at::Tensor> pieces_;
  const int64_t index_;
  at::Tensor out_;
  const Transfers received_;
};

}  // namespace

std::unique_ptr<Transfer> TransferOf(c10::intrusive_ptr<c10d::Work> work,
                                     std::vector<at::Tensor> kept) {
  return std::make_unique<WorkTransfer>(std::move(work), std::move(kept));
}

void SumInOrder(const std::vector<at::Tensor>& pieces, int64_t index, at::Tensor& out) {
  if (pieces.size() == 1) {
    if (!out.is_same(pieces[0])) out.copy_(pieces[0]);
    return;
  }
  // A piece that is `out` itself must not be written before its turn.
  const bool in_the_way = index >= 2 && out.is_alias_of(pieces[static_cast<size_t>(index)]);
  at::Tensor sum = in_the_way ? at::empty_like(out) : out;
  at::add_out(sum, pieces[0], pieces[1]);
  for (size_t i = 2; i < pieces.size(); ++i) sum.add_(pieces[i]);
  if (in_the_way) out.copy_(sum);
}

void BackendTransport::Send(const at::Tensor& x, const std::vector<int64_t>& to, int tag,
                            Transfers& started) {
  for (const int64_t member : to) {
    std::vector<at::Tensor> tensors = {x};
    started.push_back(TransferOf(backend_->send(tensors, static_cast<int>(member), tag), {x}));
  }
}

void BackendTransport::Receive(at::Tensor into, int64_t from, int tag, Transfers& started) {
  std::vector<at::Tensor> tensors = {into};
  started.push_back(
      TransferOf(backend_->recv(tensors, static_cast<int>(from), tag), {std::move(into)}));
}

void BackendTransport::ReceiveSum(at::Tensor out, at::Tensor own, int tag, Transfers& started) {
  std::vector<at::Tensor> pieces(static_cast<size_t>(size_));
  Transfers received;
  for (int64_t member = 0; member < size_; ++member) {
    at::Tensor& piece = pieces[static_cast<size_t>(member)];
    piece = member == index_ ? own : at::empty_like(own);
    if (member != index_) Receive(piece, member, tag, received);
  }
  started.push_back(std::make_unique<SumTransfer>(std::move(pieces), index_, std::move(out),
                                                  std::move(received)));
}

}  // namespace graft::parallel
