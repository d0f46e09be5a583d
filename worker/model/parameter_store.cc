#include "worker/model/parameter_store.h"

#include <utility>

#include "base/check.h"

namespace graft::model {
namespace {

constexpr int64_t kAlignElements = 16;  // 64 bytes of fp32: GEMM operands keep their bits

}  // namespace

Trained* ParameterStore::Declare(std::string name, std::vector<int64_t> shape, bool decay,
                                 int64_t layer, int64_t copies) {
  GRAFT_CHECK(!values_.defined()) << name << " is declared after Allocate";
  Trained& entry = trained_.emplace_back();
  entry.name = std::move(name);
  entry.shape = std::move(shape);
  entry.decay = decay;
  entry.whole = entry.shape;
  entry.pieces = {{0, 0, entry.rows(), copies}};
  entry.layer = layer;
  entry.offset = size_;
  size_ += (entry.elements() + kAlignElements - 1) / kAlignElements * kAlignElements;
  return &entry;
}

void ParameterStore::Allocate(at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  values_ = at::zeros({size_}, options);
  grads_ = at::zeros({size_}, options);
  for (Trained& entry : trained_) {
    entry.value = values_.narrow(0, entry.offset, entry.elements()).view(entry.shape);
    entry.grad = grads_.narrow(0, entry.offset, entry.elements()).view(entry.shape);
  }
}

int64_t ParameterStore::trained_elements() const {
  int64_t count = 0;
  for (const Trained& entry : trained_) count += entry.elements();
  return count;
}

}  // namespace graft::model
