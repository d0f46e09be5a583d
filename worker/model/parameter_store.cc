#include "worker/model/parameter_store.h"

#include <utility>

#include "base/check.h"

namespace graft::model {
namespace {

constexpr int64_t kAlignElements = 16;  // 64 bytes of fp32: GEMM operands keep their bits

// Views share the storage, so that they name whatever memory it has at a time.
void SetMemory(at::Tensor& flat, at::DataPtr memory) {
  flat.storage().set_data_ptr_noswap(std::move(memory));
}

at::DataPtr NoMemory(const at::Tensor& flat) { return {nullptr, flat.device()}; }

at::DataPtr ZeroedMemory(const at::Tensor& flat) {
  return at::zeros(flat.sizes(), flat.options()).storage().set_data_ptr(NoMemory(flat));
}

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
  return &entry;
}

void ParameterStore::Allocate(at::Device device, int64_t layers_apart) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  apart_.resize(static_cast<size_t>(layers_apart));
  const auto place = [](Trained& entry, int64_t* size) {
    entry.offset = *size;
    *size += (entry.elements() + kAlignElements - 1) / kAlignElements * kAlignElements;
  };
  const auto stands_apart = [&](const Trained& entry) {
    return entry.layer >= 0 && entry.layer < layers_apart;
  };
  int64_t size = 0;
  std::vector<int64_t> sizes(apart_.size());
  for (Trained& entry : trained_) {
    place(entry, stands_apart(entry) ? &sizes[static_cast<size_t>(entry.layer)] : &size);
  }
  values_ = at::zeros({size}, options);
  grads_ = at::zeros({size}, options);
  for (size_t layer = 0; layer < apart_.size(); ++layer) {
    for (at::Tensor* flat : {&apart_[layer].values, &apart_[layer].grads}) {
      *flat = at::empty({sizes[layer]}, options);
      SetMemory(*flat, NoMemory(*flat));
    }
  }
  for (Trained& entry : trained_) {
    const bool apart = stands_apart(entry);
    const auto view = [&entry](const at::Tensor& flat) {
      return flat.narrow(0, entry.offset, entry.elements()).view(entry.shape);
    };
    entry.value = view(apart ? Apart(entry.layer).values : values_);
    entry.grad = view(apart ? Apart(entry.layer).grads : grads_);
  }
}

ParameterStore::Buffers& ParameterStore::Apart(int64_t layer) {
  GRAFT_CHECK(layer >= 0 && layer < static_cast<int64_t>(apart_.size())) << layer;
  return apart_[static_cast<size_t>(layer)];
}

void ParameterStore::BringValues(int64_t layer) {
  at::Tensor& values = Apart(layer).values;
  SetMemory(values, ZeroedMemory(values));
}

void ParameterStore::GiveBackValues(int64_t layer) {
  SetMemory(Apart(layer).values, NoMemory(values_));
}

void ParameterStore::BringGradients(int64_t layer) {
  at::Tensor& grads = Apart(layer).grads;
  SetMemory(grads, ZeroedMemory(grads));
}

void ParameterStore::GiveBackGradients(int64_t layer) {
  SetMemory(Apart(layer).grads, NoMemory(grads_));
}

int64_t ParameterStore::trained_elements() const {
  int64_t count = 0;
  for (const Trained& entry : trained_) count += entry.elements();
  return count;
}

}  // namespace graft::model
