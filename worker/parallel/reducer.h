// From every rank's gradients to their sums, and from updated numbers to everybody's copy.
//
// Whatever several ranks hold alike has a partial gradient on each (worker/model/division.h), so
// one rule serves data, context and tensor parallelism and tied embeddings: a piece's gradient is
// the sum over the ranks that hold it. Pieces with the same holders are gathered in buckets in the
// order in which the backward reaches their layers; a bucket's sum starts when the last pass of a
// step has left its lowest layer, and goes on beside the rest of the backward. What is under way at
// a time is bounded: beyond that the oldest sum is waited for, at the same place by all its
// holders.
//
// With ZeRO-1 each holder keeps the sums of its part of a bucket alone, and the optimizer runs over
// `owned()`: those parts, in a store of their own. Publish() hands the results around.
//
// With ZeRO-3 the layers' weights come and go besides: they are gathered while a pass is in the
// layer before and given back when it leaves, and a layer's gradients are summed behind every pass,
// while the next layer's are made. These layers stand apart in the store, and what is given back
// has no memory. The shares are the numbers; the embedding and the head stay, as with ZeRO-1. All
// holders make the same passes.
//
// Life cycle: made when the store has its memory; Keep() for each layer apart as soon as it is
// filled, so that a model never has to be here as a whole, and TakeValues() when all is filled;
// must outlive the passes it observes. One thread.
#pragma once

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "worker/model/division.h"
#include "worker/model/parameter_store.h"
#include "worker/parallel/world.h"

namespace graft::parallel {

class Reducer final : public model::LayerObserver {
 public:
  struct Options {
    int64_t zero = 0;    // 0, 1 or 3; 3 without a pipeline
    int64_t layers = 0;  // of the model
    int64_t bucket_bytes = 16 << 20;
    // Each sum under way has a copy of its gradients, here and in the memory that ranks share.
    int64_t under_way_bytes = 64 << 20;
  };
  Reducer(World& world, model::ParameterStore& store, const Options& options);

  // What the optimizer works on: the store itself, or this rank's share of it.
  model::ParameterStore& owned() { return shares() ? owned_ : store_; }
  // Whether the layers' weights are here for their passes alone: `owned()` has what is true.
  bool weights_come_and_go() const { return options_.zero >= 3; }
  // Numbers [begin, begin + count) of a tensor as they lie here.
  struct Range {
    const model::Trained* of = nullptr;
    int64_t begin = 0;
    int64_t count = 0;
    at::Tensor Values() const { return of->value.view({-1}).narrow(0, begin, count); }
    at::Tensor Gradients() const { return of->grad.view({-1}).narrow(0, begin, count); }
  };
  // A share's numbers.
  struct OwnedPart : Range {
    model::Trained* own = nullptr;
  };
  // Empty with ZeRO-0.
  const std::vector<OwnedPart>& parts() const { return parts_; }
  // That layer, which stands apart, is filled: takes this rank's share and gives the rest back.
  void Keep(int64_t layer);
  // All others are filled.
  void TakeValues();
  // A checkpoint was read, into `owned()` where weights come and go, else into the store.
  void Restored();

  // A step begins, without gradients. Its last passes may start sums as they go, once `armed`.
  void Begin();
  void Arm(bool armed) { armed_ = armed; }
  // Starts what has not begun and waits for all. Gradients are then sums.
  void Finish();
  // The sum of squares of the sums, each number counted by one rank; over all ranks it is the
  // square of the gradient's norm.
  double OwnSquares();
  // After the update: every holder's values.
  void Publish();
  // Whether this rank's own gradients of the last step were finite before they were summed.
  bool own_finite() const;
  // A digest of the values that the ranks of a group hold alike, in the places of
  // World::HolderKinds: it differs where one of them has gone astray.
  struct Digest {
    const Group* group = nullptr;  // nullptr: nobody else holds what this rank does
    uint64_t value = 0;
  };
  using HolderDigests = std::array<Digest, World::kHolderKinds>;
  HolderDigests Digests() const;

  void Entered(int64_t layer) override;
  void BackwardPassed(int64_t layer) override;

 private:
  struct Bucket {
    Group* group = nullptr;
    std::vector<Range> ranges;
    int64_t elements = 0;
    int64_t layer = 0;  // the lowest
    int64_t share = 0;  // numbers of one holder, with ZeRO
    std::vector<OwnedPart> parts;
    bool comes_and_goes = false;
    // While its sum is under way.
    at::Tensor buffer;
    at::Tensor share_sums;  // with ZeRO
    Pending pending;
    // While its numbers are on their way; undefined: they are not.
    at::Tensor gathered;
    Pending coming;
  };

  bool shares() const { return options_.zero > 0; }
  bool ComesAndGoes(int64_t layer) const {
    return weights_come_and_go() && layer >= 0 && layer < options_.layers;
  }
  void MakeBuckets();
  // Has that layer's weights and no other's, and those of `next` on their way. Either may be none
  // that comes and goes.
  void Hold(int64_t layer, int64_t next);
  // Starts the sums of that layer's gradients, which go away, when those before are there.
  void SumLayer(int64_t layer);
  void EndLayerSums();
  // Of a layer that comes and goes.
  template <typename F>
  void EachBucketOf(int64_t layer, const F& visit);
  void StartGather(Bucket& bucket);
  void EndGather(Bucket& bucket);
  void MakeShares(Bucket& bucket);
  void Start(Bucket& bucket);
  void End(Bucket& bucket);
  // Of the buckets that do not come and go, in their order.
  void StartNext();
  void EndNext();
  // `packed` has one range behind the other: visit(range, its piece of it).
  template <typename F>
  static void EachRange(const Bucket& bucket, const at::Tensor& packed, const F& visit);
  static at::Tensor GradientsOf(const Bucket& bucket, int64_t padded);

  World& world_;
  model::ParameterStore& store_;
  const Options options_;
  std::vector<Bucket> buckets_;  // from the last layer to the first
  std::vector<OwnedPart> parts_;
  model::ParameterStore owned_;
  bool armed_ = false;
  // Of this rank's gradients. One number: small blocks kept between large ones keep the heap from
  // giving those back.
  at::Tensor own_sum_;
  size_t started_ = 0;
  size_t ended_ = 0;
  int64_t under_way_ = 0;  // bytes
  int64_t held_ = -1;      // the layer whose weights are here
  int64_t summed_ = -1;    // the layer whose sums are under way
};

}  // namespace graft::parallel
