#include "worker/parallel/reducer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/check.h"

namespace graft::parallel {
namespace {

// Of tensors of one number each. A device is asked once, not for each.
std::vector<double> Numbers(const std::vector<at::Tensor>& scalars) {
  if (scalars.empty()) return {};
  const at::Tensor all = at::stack(scalars).to(at::kDouble).cpu();
  return {all.const_data_ptr<double>(), all.const_data_ptr<double>() + all.numel()};
}

}  // namespace

Reducer::Reducer(World& world, model::ParameterStore& store, const Options& options)
    : world_(world), store_(store), options_(options) {
  own_sum_ = at::zeros({}, store.grads().options());
  MakeBuckets();
  if (!shares()) return;
  for (Bucket& bucket : buckets_) MakeShares(bucket);
  owned_.Allocate(store.values().device());
  for (const Bucket& bucket : buckets_) {
    parts_.insert(parts_.end(), bucket.parts.begin(), bucket.parts.end());
  }
}

void Reducer::MakeBuckets() {
  std::vector<const model::Trained*> order;
  for (const model::Trained& t : store_.trained()) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->layer > b->layer; });
  std::map<Group*, Bucket> open;
  const auto close = [this](Bucket& bucket) {
    if (!bucket.ranges.empty()) buckets_.push_back(std::move(bucket));
    bucket = Bucket();
  };
  const int64_t limit = options_.bucket_bytes / static_cast<int64_t>(sizeof(float));
  std::vector<Group*> groups;  // in the order of their first use, which all members share
  for (size_t i = 0; i < order.size(); ++i) {
    const model::Trained* t = order[i];
    const int64_t before = i > 0 ? order[i - 1]->layer : t->layer;
    if (before != t->layer && (ComesAndGoes(before) || ComesAndGoes(t->layer))) {
      for (Group* group : groups) close(open[group]);
    }
    // Columns are held by the same ranks, whichever they are: such a tensor goes as one.
    for (size_t p = 0; p < (t->axis == 0 ? t->pieces.size() : 1); ++p) {
      const model::Trained::Piece& piece = t->pieces[p];
      Group* group = &world_.HoldersOf(*t, piece);
      if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
      Bucket& bucket = open[group];
      Range range = t->axis == 0 ? Range{t, piece.begin * t->columns(), piece.count * t->columns()}
                                 : Range{t, 0, t->elements()};
      // A table of many buckets' size goes in parts.
      for (const int64_t end = range.begin + range.count; range.begin < end;
           range.begin += range.count) {
        range.count = std::min(end - range.begin, limit);
        bucket.group = group;
        bucket.ranges.push_back(range);
        bucket.elements += range.count;
        // What both ends of a pipeline hold is complete when the whole backward is.
        bucket.layer = t->both_ends ? -1 : t->layer;
        bucket.comes_and_goes = ComesAndGoes(t->layer);
        if (bucket.elements >= limit || t->both_ends) close(bucket);
      }
    }
  }
  for (Group* group : groups) close(open[group]);
  std::stable_sort(buckets_.begin(), buckets_.end(),
                   [](const Bucket& a, const Bucket& b) { return a.layer > b.layer; });
}

// Cuts the bucket into one share a holder and declares what stands in this rank's.
void Reducer::MakeShares(Bucket& bucket) {
  bucket.share = (bucket.elements + bucket.group->size() - 1) / bucket.group->size();
  const int64_t first = bucket.group->index() * bucket.share;
  const int64_t last = std::min(first + bucket.share, bucket.elements);
  int64_t at = 0;  // in the bucket
  for (const Range& range : bucket.ranges) {
    const int64_t begin = std::max(first, at);
    const int64_t end = std::min(last, at + range.count);
    if (begin < end) {
      OwnedPart part;
      part.of = range.of;
      part.begin = range.begin + begin - at;
      part.count = end - begin;
      part.own = owned_.Declare(range.of->name, {part.count}, range.of->decay, range.of->layer);
      bucket.parts.push_back(part);
    }
    at += range.count;
  }
}

void Reducer::Restored() {
  if (weights_come_and_go()) {
    Publish();
  } else {
    TakeValues();
  }
}

void Reducer::TakeValues() {
  for (const OwnedPart& part : parts_) {
    if (!ComesAndGoes(part.of->layer)) part.own->value.copy_(part.Values());
  }
}

void Reducer::Keep(int64_t layer) {
  GRAFT_CHECK(ComesAndGoes(layer)) << layer;
  for (const OwnedPart& part : parts_) {
    if (part.of->layer == layer) part.own->value.copy_(part.Values());
  }
  store_.GiveBackValues(layer);
}

template <typename F>
void Reducer::EachRange(const Bucket& bucket, const at::Tensor& packed, const F& visit) {
  int64_t at = 0;
  for (const Range& range : bucket.ranges) {
    visit(range, packed.narrow(0, at, range.count));
    at += range.count;
  }
}

at::Tensor Reducer::GradientsOf(const Bucket& bucket, int64_t padded) {
  at::Tensor packed = at::empty({padded}, bucket.ranges.front().of->grad.options());
  EachRange(bucket, packed,
            [](const Range& range, at::Tensor piece) { piece.copy_(range.Gradients()); });
  packed.narrow(0, bucket.elements, padded - bucket.elements).zero_();
  return packed;
}

void Reducer::Begin() {
  own_sum_.zero_();
  armed_ = false;
  store_.ZeroGradients();
  if (weights_come_and_go()) owned_.ZeroGradients();
}

void Reducer::Start(Bucket& bucket) {
  for (const Range& range : bucket.ranges) {
    own_sum_.add_(range.Gradients().sum());
  }
  if (shares()) {
    bucket.buffer = GradientsOf(bucket, bucket.share * bucket.group->size());
    bucket.share_sums = at::empty({bucket.share}, bucket.buffer.options());
    bucket.pending = bucket.group->StartScatter(bucket.buffer, bucket.share_sums, "gradient sums");
  } else if (bucket.group->size() > 1) {
    const bool alone = bucket.ranges.size() == 1;
    bucket.buffer = alone ? bucket.ranges[0].Gradients() : GradientsOf(bucket, bucket.elements);
    bucket.pending = bucket.group->StartSum(bucket.buffer, "gradient sums");
  }
}

void Reducer::End(Bucket& bucket) {
  bucket.pending.Wait();
  if (shares()) {
    int64_t at = 0;
    for (const OwnedPart& part : bucket.parts) {
      const at::Tensor sums = bucket.share_sums.narrow(0, at, part.count);
      if (bucket.comes_and_goes) {
        part.own->grad.add_(sums);  // to those of the passes before
      } else {
        part.own->grad.copy_(sums);
      }
      at += part.count;
    }
  } else if (bucket.buffer.defined() && bucket.ranges.size() > 1) {
    EachRange(bucket, bucket.buffer,
              [](const Range& range, const at::Tensor& piece) { range.Gradients().copy_(piece); });
  }
  bucket.buffer.reset();
  bucket.share_sums.reset();
}

template <typename F>
void Reducer::EachBucketOf(int64_t layer, const F& visit) {
  for (Bucket& bucket : buckets_) {
    if (bucket.comes_and_goes && bucket.layer == layer) visit(bucket);
  }
}

void Reducer::StartGather(Bucket& bucket) {
  if (bucket.gathered.defined()) return;
  at::Tensor own = at::zeros({bucket.share}, store_.values().options());
  int64_t at = 0;
  for (const OwnedPart& part : bucket.parts) {
    own.narrow(0, at, part.count).copy_(part.own->value);
    at += part.count;
  }
  const char* what = bucket.comes_and_goes ? "weights of a layer" : "updated numbers";
  bucket.gathered = at::empty({bucket.share * bucket.group->size()}, own.options());
  bucket.coming = bucket.group->StartGather(own, bucket.gathered, what);
}

void Reducer::EndGather(Bucket& bucket) {
  bucket.coming.Wait();
  EachRange(bucket, bucket.gathered,
            [](const Range& range, const at::Tensor& piece) { range.Values().copy_(piece); });
  bucket.gathered.reset();
}

void Reducer::Hold(int64_t layer, int64_t next) {
  if (held_ != layer && held_ >= 0) store_.GiveBackValues(held_);
  const bool comes = ComesAndGoes(layer) && held_ != layer;
  held_ = layer;
  if (comes) {
    store_.BringValues(layer);
    EachBucketOf(layer, [this](Bucket& bucket) { StartGather(bucket); });
    EachBucketOf(layer, [this](Bucket& bucket) { EndGather(bucket); });
  }
  EachBucketOf(next, [this](Bucket& bucket) { StartGather(bucket); });
}

void Reducer::SumLayer(int64_t layer) {
  EndLayerSums();
  EachBucketOf(layer, [this](Bucket& bucket) { Start(bucket); });
  summed_ = layer;
  store_.GiveBackGradients(layer);
}

void Reducer::EndLayerSums() {
  EachBucketOf(summed_, [this](Bucket& bucket) { End(bucket); });
  summed_ = -1;
}

void Reducer::Entered(int64_t layer) {
  world_.activity().Tick();
  if (!ComesAndGoes(layer)) return;
  const bool turns = layer + 1 == options_.layers && at::GradMode::is_enabled();
  Hold(layer, turns ? layer - 1 : layer + 1);
  if (turns) store_.BringGradients(layer);
}

void Reducer::BackwardPassed(int64_t layer) {
  world_.activity().Tick();
  if (ComesAndGoes(layer)) {
    SumLayer(layer);
    Hold(layer - 1, layer - 2);
    if (layer > 0) store_.BringGradients(layer - 1);
  }
  if (!armed_) return;
  while (started_ < buckets_.size() && buckets_[started_].layer >= layer) StartNext();
}

void Reducer::StartNext() {
  Bucket& bucket = buckets_[started_++];
  if (bucket.comes_and_goes) return;
  const int64_t bytes = bucket.elements * static_cast<int64_t>(sizeof(float));
  while (under_way_ > 0 && under_way_ + bytes > options_.under_way_bytes) EndNext();
  Start(bucket);
  under_way_ += bytes;
}

void Reducer::EndNext() {
  Bucket& bucket = buckets_[ended_++];
  if (bucket.comes_and_goes) return;
  End(bucket);
  under_way_ -= bucket.elements * static_cast<int64_t>(sizeof(float));
}

void Reducer::Finish() {
  EndLayerSums();
  while (started_ < buckets_.size()) StartNext();
  while (ended_ < buckets_.size()) EndNext();
  armed_ = false;
  started_ = ended_ = 0;
}

bool Reducer::own_finite() const { return std::isfinite(own_sum_.item<float>()); }

double Reducer::OwnSquares() {
  std::vector<at::Tensor> norms;
  std::vector<double> holders;
  const auto add = [&](const at::Tensor& numbers, int64_t held_by) {
    norms.push_back(numbers.norm(2, at::kDouble));
    holders.push_back(static_cast<double>(held_by));
  };
  if (shares()) {
    for (const OwnedPart& part : parts_) add(part.own->grad, 1);
  } else {
    for (const Bucket& bucket : buckets_) {
      for (const Range& range : bucket.ranges) {
        add(range.Gradients(), bucket.group->size());
      }
    }
  }
  const std::vector<double> numbers = Numbers(norms);
  double sum = 0;
  for (size_t i = 0; i < numbers.size(); ++i) sum += numbers[i] * numbers[i] / holders[i];
  return sum;
}

Reducer::HolderDigests Reducer::Digests() const {
  const std::array<Group*, World::kHolderKinds> kinds = world_.HolderKinds();
  HolderDigests digests;
  std::array<at::Tensor, World::kHolderKinds> sums;
  for (const Bucket& bucket : buckets_) {
    if (bucket.group->size() == 1 || bucket.comes_and_goes) continue;
    const auto kind =
        static_cast<size_t>(std::find(kinds.begin(), kinds.end(), bucket.group) - kinds.begin());
    GRAFT_CHECK(kind < kinds.size()) << RanksText(bucket.group->ranks());
    digests[kind].group = bucket.group;
    for (const Range& range : bucket.ranges) {
      const at::Tensor sum = range.Values().view(at::kInt).sum(at::kLong);
      sums[kind] = sums[kind].defined() ? sums[kind] + sum : sum;
    }
  }
  for (size_t kind = 0; kind < sums.size(); ++kind) {
    if (sums[kind].defined()) {
      digests[kind].value = static_cast<uint64_t>(sums[kind].item<int64_t>());
    }
  }
  return digests;
}

void Reducer::Publish() {
  if (!shares()) return;
  for (Bucket& bucket : buckets_) {
    if (bucket.comes_and_goes) {
      GRAFT_CHECK(!bucket.gathered.defined()) << "layer " << bucket.layer << " is on its way";
      continue;
    }
    StartGather(bucket);
    EndGather(bucket);
  }
  Hold(-1, -1);  // what is here of a layer is old
}

}  // namespace graft::parallel
