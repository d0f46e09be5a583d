// Where the tensors of a model's files go: each parameter is declared in the decoder's store where
// it is trained and stands for itself where it is frozen, and is read once the store has its
// memory.
//
//   placer.Place(parameter, true, type, &norm.weight_grad, [&](at::Tensor t) { ... });  // and
//   others placer.Fill();
//
// What the builders of a decoder's parts (decoder_build.cc) share; none of it outlives
// BuildDecoder.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/adapter_targets.h"
#include "worker/model/build_options.h"
#include "worker/model/decoder.h"
#include "worker/spec/load.h"
#include "worker/spec/parameter_reader.h"

namespace graft::model {

inline constexpr int64_t kGroupsOfLayer = 16;  // more than any layer has

// Lets `fill` write the numbers of `into`: in place where it is in the CPU's memory.
void FillOnHost(at::Tensor into, const std::function<void(at::Tensor&)>& fill);

// Says which parts of the whole tensor a trained one holds (Trained::Piece).
void SetPieces(Trained* trained, std::vector<int64_t> whole, int axis,
               std::vector<Trained::Piece> pieces);

class ParameterPlacer {
 public:
  // All must outlive it.
  ParameterPlacer(const spec::ModelDescription& description, const spec::ParameterReader& reader,
                  const BuildOptions& options, const AdapterTargets& targets, Decoder& decoder)
      : description_(description),
        reader_(reader),
        options_(options),
        targets_(targets),
        decoder_(decoder) {}

  const spec::DecoderSpec& spec() const { return description_.spec; }
  const spec::ParameterReader& reader() const { return reader_; }
  const BuildOptions& options() const { return options_; }
  const Division& division() const { return options_.division; }
  const AdapterTargets& targets() const { return targets_; }
  Decoder& decoder() { return decoder_; }
  ParameterStore& store() { return decoder_.store(); }
  bool trains_all() const { return options_.train == Train::kAllWeights; }

  // What is placed from now on belongs to that layer: -1 the embedding, the layers' number the
  // head.
  void BeginLayer(int64_t layer);
  int64_t layer() const { return layer_; }
  // Numbers for the next `count` linear groups of the layer, distinct over the model.
  uint64_t NumberGroups(int64_t count);

  const spec::Parameter* Find(const std::string& name) const { return description_.Find(name); }
  // This rank's part of `parameter`, and its shape.
  Cut Own(const spec::Parameter& parameter) const;
  static std::vector<int64_t> Shape(const spec::Parameter& parameter, const Cut& cut);
  absl::Status Read(const spec::Parameter& parameter, at::Tensor into) const;
  absl::Status ReadBlock(const spec::Parameter& parameter, const spec::ParameterBlock& block,
                         at::Tensor into) const;
  // Memory for a frozen tensor, where the model lives.
  at::Tensor Empty(const std::vector<int64_t>& shape, at::ScalarType type) const;

  // Declares `parameter` where it is trained, makes it of type `frozen` where it is not, and hands
  // the filled tensor to `put`.
  void Place(const spec::Parameter* parameter, bool decay, at::ScalarType frozen, Trained** grad,
             std::function<void(at::Tensor)> put);
  // A tensor that no optimizer changes, whatever is trained.
  void PlaceFrozen(const spec::Parameter* parameter, at::ScalarType type,
                   std::function<void(at::Tensor)> put);
  // Weight and bias, where the model has them.
  void PlaceNorm(const std::string& name, const spec::NormSpec& spec, Norm& norm);

  // Run by Fill, in the order of the calls.
  void Later(std::function<absl::Status()> fill) { fills_.push_back({layer_, std::move(fill)}); }
  // Gives the store its memory, then fills everything.
  absl::Status Fill();

 private:
  struct LayerFill {
    int64_t layer;
    std::function<absl::Status()> fill;
  };

  const spec::ModelDescription& description_;
  const spec::ParameterReader& reader_;
  const BuildOptions& options_;
  const AdapterTargets& targets_;
  Decoder& decoder_;
  int64_t layer_ = 0;
  uint64_t next_group_ = 0;  // of this layer
  std::vector<LayerFill> fills_;
};

}  // namespace graft::model
