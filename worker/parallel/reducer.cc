#include "worker/parallel/reducer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "base/check.h"

namespace graft::parallel {
namespace {

double Squares(const at::Tensor& x) {
  if (x.numel() == 0) return 0;
  const double norm = x.norm(2, at::kDouble).item<double>();
  return norm * norm;
}

}  // namespace

Reducer::Reducer(World& world, model::ParameterStore& store, const Options& options)
    : world_(world), store_(store), options_(options) {
  MakeBuckets();
  if (!options_.shard) return;
  for (Bucket& bucket : buckets_) MakeShares(bucket);
  owned_.Allocate(at::kCPU);
  for (const Bucket& bucket : buckets_) {
    parts_.insert(parts_.end(), bucket.parts.begin(), bucket.parts.end());
  }
  TakeValues();
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
  for (const model::Trained* t : order) {
    const bool both_ends = options_.tied && t->name == "embed.weight" && world_.layout().pp > 1;
    // Columns are held by the same ranks, whichever they are: such a tensor goes as one.
    for (size_t p = 0; p < (t->axis == 0 ? t->pieces.size() : 1); ++p) {
      const model::Trained::Piece& piece = t->pieces[p];
      Group* group = &world_.HoldersOf(*t, piece, options_.tied);
      if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
      Bucket& bucket = open[group];
      const Range range = t->axis == 0 ? Range{t, t->offset + piece.begin * t->columns(),
                                               piece.count * t->columns()}
                                       : Range{t, t->offset, t->elements()};
      bucket.group = group;
      bucket.ranges.push_back(range);
      bucket.elements += range.count;
      // A table that both ends of a pipeline hold is complete when the whole backward is.
      bucket.layer = both_ends ? -1 : t->layer;
      if (bucket.elements >= limit || both_ends) close(bucket);
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
      part.begin = range.begin - range.of->offset + begin - at;
      part.count = end - begin;
      part.own = owned_.Declare(range.of->name, {part.count}, range.of->decay, range.of->layer);
      bucket.parts.push_back(part);
    }
    at += range.count;
  }
}

void Reducer::TakeValues() {
  for (const OwnedPart& part : parts_) {
    part.own->value.copy_(store_.values().narrow(0, part.of->offset + part.begin, part.count));
  }
}

at::Tensor Reducer::Pack(const Bucket& bucket, const at::Tensor& flat, int64_t padded) const {
  at::Tensor packed = at::empty({padded}, flat.options());
  int64_t at = 0;
  for (const Range& range : bucket.ranges) {
    packed.narrow(0, at, range.count).copy_(flat.narrow(0, range.begin, range.count));
    at += range.count;
  }
  if (at < padded) packed.narrow(0, at, padded - at).zero_();
  return packed;
}

void Reducer::Unpack(const Bucket& bucket, const at::Tensor& packed, at::Tensor& flat) const {
  int64_t at = 0;
  for (const Range& range : bucket.ranges) {
    flat.narrow(0, range.begin, range.count).copy_(packed.narrow(0, at, range.count));
    at += range.count;
  }
}

void Reducer::Start(Bucket& bucket) {
  for (const Range& range : bucket.ranges) {
    const float sum = store_.grads().narrow(0, range.begin, range.count).sum().item<float>();
    own_finite_ = own_finite_ && std::isfinite(sum);
  }
  if (options_.shard) {
    bucket.buffer = Pack(bucket, store_.grads(), bucket.share * bucket.group->size());
    bucket.share_sums = at::empty({bucket.share}, bucket.buffer.options());
    bucket.pending = bucket.group->StartScatter(bucket.buffer, bucket.share_sums, "gradient sums");
  } else if (bucket.group->size() > 1) {
    const bool alone = bucket.ranges.size() == 1;
    bucket.buffer = alone ? store_.grads().narrow(0, bucket.ranges[0].begin, bucket.elements)
                          : Pack(bucket, store_.grads(), bucket.elements);
    bucket.pending = bucket.group->StartSum(bucket.buffer, "gradient sums");
  }
}

void Reducer::End(Bucket& bucket) {
  bucket.pending.Wait();
  if (options_.shard) {
    int64_t at = 0;
    for (const OwnedPart& part : bucket.parts) {
      part.own->grad.copy_(bucket.share_sums.narrow(0, at, part.count));
      at += part.count;
    }
  } else if (bucket.buffer.defined() && bucket.ranges.size() > 1) {
    Unpack(bucket, bucket.buffer, store_.grads());
  }
  bucket.buffer.reset();
  bucket.share_sums.reset();
}

void Reducer::Entered(int64_t) { world_.activity().Tick(); }

void Reducer::BackwardPassed(int64_t layer) {
  world_.activity().Tick();
  if (!armed_) return;
  while (started_ < buckets_.size() && buckets_[started_].layer >= layer) {
    Start(buckets_[started_++]);
  }
}

void Reducer::Finish() {
  while (started_ < buckets_.size()) Start(buckets_[started_++]);
  for (Bucket& bucket : buckets_) End(bucket);
  armed_ = false;
  started_ = 0;
}

double Reducer::OwnSquares() {
  double sum = 0;
  if (options_.shard) {
    for (const OwnedPart& part : parts_) sum += Squares(part.own->grad);
    return sum;
  }
  for (const Bucket& bucket : buckets_) {
    double squares = 0;
    for (const Range& range : bucket.ranges) {
      squares += Squares(store_.grads().narrow(0, range.begin, range.count));
    }
    sum += squares / static_cast<double>(bucket.group->size());
  }
  return sum;
}

Reducer::HolderDigests Reducer::Digests() const {
  const std::array<Group*, World::kHolderKinds> kinds = world_.HolderKinds();
  HolderDigests digests;
  const at::Tensor bits = store_.values().view(at::kInt);
  for (const Bucket& bucket : buckets_) {
    if (bucket.group->size() == 1) continue;
    const auto kind = std::find(kinds.begin(), kinds.end(), bucket.group) - kinds.begin();
    GRAFT_CHECK(static_cast<size_t>(kind) < kinds.size()) << RanksText(bucket.group->ranks());
    Digest& digest = digests[static_cast<size_t>(kind)];
    digest.group = bucket.group;
    for (const Range& range : bucket.ranges) {
      digest.value += static_cast<uint64_t>(
          bits.narrow(0, range.begin, range.count).sum(at::kLong).item<int64_t>());
    }
  }
  return digests;
}

void Reducer::Publish() {
  if (!options_.shard) return;
  for (Bucket& bucket : buckets_) {
    at::Tensor own = at::zeros({bucket.share}, store_.values().options());
    int64_t at = 0;
    for (const OwnedPart& part : bucket.parts) {
      own.narrow(0, at, part.count).copy_(part.own->value);
      at += part.count;
    }
    const at::Tensor all = bucket.group->Gather(own, "updated numbers");
    Unpack(bucket, all, store_.values());
  }
}

}  // namespace graft::parallel
