#include "worker/model/parameter_placer.h"

#include <utility>

#include "absl/strings/match.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft::model {

namespace {

// The type that the reader writes for a tensor of `type`.
spec::DType FileType(at::ScalarType type) {
  if (type == at::kBFloat16) return spec::DType::kBF16;
  return type == at::kHalf ? spec::DType::kF16 : spec::DType::kF32;
}

}  // namespace

void FillOnHost(at::Tensor into, const std::function<void(at::Tensor&)>& fill) {
  if (into.device().is_cpu()) return fill(into);
  at::Tensor host = at::empty(into.sizes(), at::dtype(into.scalar_type()).pinned_memory(true));
  fill(host);
  into.copy_(host);
}

void SetPieces(Trained* trained, std::vector<int64_t> whole, int axis,
               std::vector<Trained::Piece> pieces) {
  trained->whole = std::move(whole);
  trained->axis = axis;
  trained->pieces = std::move(pieces);
}

void ParameterPlacer::BeginLayer(int64_t layer) {
  layer_ = layer;
  next_group_ = 0;
}

uint64_t ParameterPlacer::NumberGroups(int64_t count) {
  const uint64_t first = static_cast<uint64_t>(layer_) * kGroupsOfLayer + next_group_;
  next_group_ += static_cast<uint64_t>(count);
  return first;
}

Cut ParameterPlacer::Own(const spec::Parameter& parameter) const {
  return CutOf(spec(), division(), parameter.name, parameter.shape);
}

std::vector<int64_t> ParameterPlacer::Shape(const spec::Parameter& parameter, const Cut& cut) {
  std::vector<int64_t> shape = parameter.shape;
  if (!shape.empty()) shape[static_cast<size_t>(cut.axis)] = cut.count;
  return shape;
}

absl::Status ParameterPlacer::Read(const spec::Parameter& parameter, at::Tensor into) const {
  const Cut cut = Own(parameter);
  spec::ParameterBlock block;
  if (cut.axis == 0) {
    block.row_begin = cut.begin;
    block.row_end = cut.begin + cut.count;
  } else {
    block.column_begin = cut.begin;
    block.column_end = cut.begin + cut.count;
  }
  return ReadBlock(parameter, block, std::move(into));
}

absl::Status ParameterPlacer::ReadBlock(const spec::Parameter& parameter,
                                        const spec::ParameterBlock& block, at::Tensor into) const {
  GRAFT_CHECK(into.is_contiguous()) << parameter.name;
  absl::Status read;
  FillOnHost(std::move(into), [&](at::Tensor& host) {
    read = reader_.Read(parameter, block, FileType(host.scalar_type()),
                        static_cast<char*>(host.mutable_data_ptr()));
  });
  return read;
}

at::Tensor ParameterPlacer::Empty(const std::vector<int64_t>& shape, at::ScalarType type) const {
  return at::empty(shape, at::dtype(type).device(options_.device));
}

void ParameterPlacer::Place(const spec::Parameter* parameter, bool decay, at::ScalarType frozen,
                            Trained** grad, std::function<void(at::Tensor)> put) {
  Trained* trained = nullptr;
  const Cut cut = Own(*parameter);
  const std::vector<int64_t> shape = Shape(*parameter, cut);
  const bool saved = targets_.Saves(ModuleOf(*parameter));
  const bool bias =
      !saved && targets_.TrainsAllBiases() && absl::EndsWith(parameter->hub[0].tensor, ".bias");
  if (trains_all() || saved || bias) {
    trained = decoder_.store().Declare(parameter->name, shape, decay, layer_, cut.copies);
    if (bias) decoder_.trained_biases.insert(parameter->name);
    SetPieces(trained, parameter->shape, cut.axis, {{0, cut.begin, cut.count, cut.copies}});
    if (grad != nullptr) *grad = trained;
  }
  Later([this, parameter, trained, saved, frozen, shape, put]() -> absl::Status {
    at::Tensor tensor = trained != nullptr ? trained->value : Empty(shape, frozen);
    if (trained != nullptr || !options_.without_frozen) {
      GRAFT_RETURN_IF_ERROR(Read(*parameter, tensor));
    }
    decoder_.parameters[parameter->name] = tensor;
    if (saved) decoder_.saved_modules[parameter->hub[0].tensor] = tensor;
    put(tensor);
    return absl::OkStatus();
  });
}

void ParameterPlacer::PlaceFrozen(const spec::Parameter* parameter, at::ScalarType type,
                                  std::function<void(at::Tensor)> put) {
  Later([this, parameter, type, put]() -> absl::Status {
    at::Tensor tensor = Empty(parameter->shape, type);
    GRAFT_RETURN_IF_ERROR(Read(*parameter, tensor));
    decoder_.parameters[parameter->name] = tensor;
    put(tensor);
    return absl::OkStatus();
  });
}

void ParameterPlacer::PlaceNorm(const std::string& name, const spec::NormSpec& spec, Norm& norm) {
  const spec::Parameter* weight = Find(name + ".weight");
  norm.spec = spec;
  if (weight == nullptr) return;
  norm.present = true;
  Place(weight, false, at::kFloat, &norm.weight_grad,
        [&norm](at::Tensor t) { norm.weight = std::move(t); });
  if (const spec::Parameter* bias = Find(name + ".bias"); bias != nullptr) {
    Place(bias, false, at::kFloat, &norm.bias_grad,
          [&norm](at::Tensor t) { norm.bias = std::move(t); });
  }
}

absl::Status ParameterPlacer::Fill() {
  const int64_t apart = options_.layers_apart ? spec().num_layers() : 0;
  store().Allocate(options_.device, apart);
  if (options_.allocated) options_.allocated(store());
  for (size_t i = 0; i < fills_.size(); ++i) {
    const int64_t layer = fills_[i].layer;
    const bool stands_apart = layer >= 0 && layer < apart;
    if (stands_apart && (i == 0 || fills_[i - 1].layer != layer)) store().BringValues(layer);
    GRAFT_RETURN_IF_ERROR(fills_[i].fill());
    const bool last = i + 1 == fills_.size() || fills_[i + 1].layer != layer;
    if (stands_apart && last) options_.filled(layer);
  }
  return absl::OkStatus();
}

}  // namespace graft::model
