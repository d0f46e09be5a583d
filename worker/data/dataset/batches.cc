#include "worker/data/dataset/batches.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/data/dataset/packer.h"

namespace graft::data {
namespace {

// Distinct streams of the one seed.
uint64_t Derive(uint64_t seed, uint64_t stream, uint64_t round) {
  uint64_t x = seed ^ (stream * 0xD1342543DE82EF95) ^ (round * 0x9E3779B97F4A7C15);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

struct Example {
  int dataset = 0;
  int64_t row = 0;
};

// The rows of one pass, by their index into the examples of the step.
using Group = std::vector<int>;

// Splits groups of several rows until there are `count`, or none is left to split.
void SplitUpTo(std::vector<Group>& groups, size_t count) {
  while (groups.size() < count) {
    const auto largest =
        std::max_element(groups.begin(), groups.end(),
                         [](const Group& a, const Group& b) { return a.size() < b.size(); });
    if (largest == groups.end() || largest->size() < 2) return;
    const size_t half = largest->size() / 2;
    Group tail(largest->begin() + static_cast<ptrdiff_t>(half), largest->end());
    largest->resize(half);
    groups.push_back(std::move(tail));
  }
}

// How many passes every rank runs.
int64_t Passes(const std::vector<std::vector<Group>>& groups) {
  size_t passes = 0;
  for (const std::vector<Group>& own : groups) passes = std::max(passes, own.size());
  return static_cast<int64_t>(passes);
}

absl::Status CheckOptions(const PlanOptions& options) {
  const std::pair<absl::string_view, int64_t> sizes[] = {
      {"epochs", options.epochs},
      {"global_batch_size", options.global_batch_size},
      {"micro_batch_size", options.micro_batch_size},
      {"dp_size", options.dp_size},
      {"max_seq_length", options.max_seq_length}};
  for (const auto& [name, value] : sizes) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, " must be at least 1, not ", value));
  }
  if (options.max_steps < 0) {
    return absl::InvalidArgumentError("max_steps must not be negative; 0 is no cap");
  }
  if (options.global_batch_size < options.dp_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "global_batch_size ", options.global_batch_size, " is less than the ", options.dp_size,
        " data-parallel ranks: each step has to give every rank a row"));
  }
  return absl::OkStatus();
}

}  // namespace

struct BatchPlan::Impl {
  std::vector<WeightedDataset> datasets;
  std::vector<int64_t> rows;    // of each dataset that may be drawn
  std::vector<int64_t> counts;  // examples per epoch of each
  PlanOptions options;
  int64_t per_epoch = 0;
  int64_t total = 0;  // examples of the run, before max_steps
  int64_t steps = 0;
  int per_row = 1;  // sequences

  Example At(int64_t position) const;
  std::vector<Example> ExamplesOf(int64_t step) const;
  int LengthOf(const Example& example) const;
  int64_t SupervisedOf(const Example& example) const;
  int64_t Capacity() const {
    return int64_t{options.micro_batch_size} * options.max_seq_length * per_row;
  }
  std::vector<std::vector<Group>> GroupsOf(absl::Span<const int> lengths, bool packing) const;
  void AppendSequence(int dataset, int64_t sequence, MicroBatch& micro) const;
  MicroBatch Build(const std::vector<Example>& examples, const Group& group) const;
  MicroBatch Filler(const std::vector<Example>& examples, absl::Span<const int> lengths) const;
};

Example BatchPlan::Impl::At(int64_t position) const {
  const int64_t epoch = position / per_epoch;
  int64_t index = position % per_epoch;
  if (options.shuffle) {
    index = static_cast<int64_t>(ShuffledIndex(Derive(options.seed, 0, epoch), per_epoch, index));
  }
  Example example;
  while (index >= counts[example.dataset]) index -= counts[example.dataset++];
  // A dataset's own draws go on from epoch to epoch, so that a weight below 1 shows other rows
  // each time until all have been seen.
  const int64_t draw = epoch * counts[example.dataset] + index;
  const int64_t size = rows[example.dataset];
  example.row = draw % size;
  if (options.shuffle) {
    const uint64_t seed = Derive(options.seed, example.dataset + 1, draw / size);
    example.row = static_cast<int64_t>(ShuffledIndex(seed, size, example.row));
  }
  const std::vector<uint32_t>& chosen = datasets[example.dataset].rows;
  if (!chosen.empty()) example.row = chosen[example.row];
  return example;
}

std::vector<Example> BatchPlan::Impl::ExamplesOf(int64_t step) const {
  const int64_t begin = step * options.global_batch_size;
  const int64_t end = std::min(begin + options.global_batch_size, total);
  std::vector<Example> examples;
  for (int64_t i = begin; i < end; ++i) examples.push_back(At(i));
  return examples;
}

int BatchPlan::Impl::LengthOf(const Example& example) const {
  int length = 0;
  for (int i = 0; i < per_row; ++i) {
    length += datasets[example.dataset].data->length(example.row * per_row + i);
  }
  return length;
}

int64_t BatchPlan::Impl::SupervisedOf(const Example& example) const {
  int64_t count = 0;
  for (int i = 0; i < per_row; ++i) {
    count += datasets[example.dataset].data->supervised_count(example.row * per_row + i);
  }
  return count;
}

std::vector<std::vector<Group>> BatchPlan::Impl::GroupsOf(absl::Span<const int> lengths,
                                                          bool packing) const {
  std::vector<std::vector<Group>> groups(options.dp_size);
  size_t most = 1;
  const auto shares = ShareAmongRanks(lengths, options.dp_size, /*equal_counts=*/!packing);
  for (int rank = 0; rank < options.dp_size; ++rank) {
    const Group& share = shares[rank];
    if (packing) {
      std::vector<int> own;
      for (const int index : share) own.push_back(lengths[index]);
      const int64_t most = options.packing_max_samples * options.micro_batch_size;
      groups[rank] = PackBestFit(own, Capacity(), most > 0 ? most : INT64_MAX);
      for (Group& group : groups[rank]) {
        for (int& index : group) index = share[index];
      }
    } else {
      for (size_t i = 0; i < share.size(); i += options.micro_batch_size) {
        const size_t end = std::min(share.size(), i + options.micro_batch_size);
        groups[rank].emplace_back(share.begin() + static_cast<ptrdiff_t>(i),
                                  share.begin() + static_cast<ptrdiff_t>(end));
      }
    }
    most = std::max(most, groups[rank].size());
  }
  for (std::vector<Group>& own : groups) SplitUpTo(own, most);
  return groups;
}

void BatchPlan::Impl::AppendSequence(int dataset, int64_t sequence, MicroBatch& micro) const {
  const TokenizedDataset& data = *datasets[dataset].data;
  const absl::Span<const int32_t> ids = data.ids(sequence);
  const absl::Span<const uint8_t> mask = data.mask(sequence);
  micro.tokens.insert(micro.tokens.end(), ids.begin(), ids.end());
  for (size_t t = 0; t < ids.size(); ++t) {
    micro.positions.push_back(static_cast<int32_t>(t));
    const bool learnt = t + 1 < ids.size() && mask[t + 1] != 0;
    micro.targets.push_back(learnt ? ids[t + 1] : kIgnoreTarget);
    micro.supervised_tokens += learnt;
  }
  micro.segment_starts.push_back(static_cast<int32_t>(micro.tokens.size()));
  micro.sequences.push_back(static_cast<int32_t>(sequence));
  micro.datasets.push_back(dataset);
  micro.max_segment = std::max(micro.max_segment, static_cast<int>(ids.size()));
}

MicroBatch BatchPlan::Impl::Build(const std::vector<Example>& examples, const Group& group) const {
  MicroBatch micro;
  micro.segment_starts.push_back(0);
  for (const int index : group) {
    for (int i = 0; i < per_row; ++i) {
      AppendSequence(examples[index].dataset, examples[index].row * per_row + i, micro);
    }
  }
  return micro;
}

MicroBatch BatchPlan::Impl::Filler(const std::vector<Example>& examples,
                                   absl::Span<const int> lengths) const {
  const auto shortest = std::min_element(lengths.begin(), lengths.end()) - lengths.begin();
  MicroBatch micro = Build(examples, {static_cast<int>(shortest)});
  std::fill(micro.targets.begin(), micro.targets.end(), kIgnoreTarget);
  micro.supervised_tokens = 0;
  micro.filler = true;
  return micro;
}

BatchPlan::BatchPlan(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
BatchPlan::BatchPlan(BatchPlan&&) noexcept = default;
BatchPlan& BatchPlan::operator=(BatchPlan&&) noexcept = default;
BatchPlan::~BatchPlan() = default;

absl::StatusOr<BatchPlan> BatchPlan::Create(std::vector<WeightedDataset> datasets,
                                            const PlanOptions& options) {
  GRAFT_RETURN_IF_ERROR(CheckOptions(options));
  if (datasets.empty()) return absl::InvalidArgumentError("no dataset to train on");
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->per_row = datasets[0].data->sequences_per_row();
  for (size_t d = 0; d < datasets.size(); ++d) {
    const WeightedDataset& dataset = datasets[d];
    const std::string name = absl::StrCat("dataset ", d);
    if (dataset.data->sequences_per_row() != impl->per_row) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": preference rows cannot be mixed with other rows"));
    }
    if (!(dataset.weight > 0) || dataset.weight > 1e6) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": weight ", dataset.weight, " must be above 0"));
    }
    const int64_t rows =
        dataset.rows.empty() ? dataset.data->rows() : static_cast<int64_t>(dataset.rows.size());
    if (rows == 0) return absl::InvalidArgumentError(absl::StrCat(name, " has no rows"));
    for (const uint32_t row : dataset.rows) {
      GRAFT_CHECK(row < dataset.data->rows()) << "row " << row << " is outside of the dataset";
    }
    for (int64_t i = 0; i < dataset.data->size(); ++i) {
      if (dataset.data->length(i) <= options.max_seq_length) continue;
      return absl::InvalidArgumentError(
          absl::StrCat(name, ", sequence ", i, ": ", dataset.data->length(i),
                       " tokens are more than max_seq_length ", options.max_seq_length));
    }
    impl->rows.push_back(rows);
    impl->counts.push_back(
        std::max<int64_t>(1, std::llround(dataset.weight * static_cast<double>(rows))));
    impl->per_epoch += impl->counts.back();
  }
  impl->datasets = std::move(datasets);
  impl->total = impl->per_epoch * options.epochs;
  impl->steps = (impl->total + options.global_batch_size - 1) / options.global_batch_size;
  if (options.max_steps > 0) impl->steps = std::min(impl->steps, options.max_steps);
  return BatchPlan(std::move(impl));
}

int64_t BatchPlan::steps() const { return impl_->steps; }
int64_t BatchPlan::examples_per_epoch() const { return impl_->per_epoch; }
const PlanOptions& BatchPlan::options() const { return impl_->options; }

int64_t BatchPlan::FirstStepOfEpoch(int epoch) const {
  const int64_t batch = impl_->options.global_batch_size;
  return (impl_->per_epoch * epoch + batch - 1) / batch;
}

BatchPlan::Cost BatchPlan::EstimateCost() const {
  Cost cost;
  cost.steps_packed = cost.steps_unpacked = impl_->steps;
  int64_t tokens = 0;
  int64_t passes = 0;
  for (int64_t step = 0; step < impl_->steps; ++step) {
    std::vector<int> lengths;
    for (const Example& example : impl_->ExamplesOf(step)) {
      lengths.push_back(impl_->LengthOf(example));
      tokens += lengths.back();
    }
    const int64_t packed = Passes(impl_->GroupsOf(lengths, true));
    const int64_t unpacked = Passes(impl_->GroupsOf(lengths, false));
    cost.micro_batches_packed += packed;
    cost.micro_batches_unpacked += unpacked;
    passes += impl_->options.packing ? packed : unpacked;
  }
  if (impl_->steps == 0) return cost;
  cost.mean_tokens_per_step = static_cast<double>(tokens) / static_cast<double>(impl_->steps);
  cost.mean_fill =
      static_cast<double>(tokens) / (static_cast<double>(passes) * impl_->options.dp_size *
                                     static_cast<double>(impl_->Capacity()));
  return cost;
}

StepBatch BatchPlan::Step(int64_t step, int dp_rank) const {
  GRAFT_CHECK(step >= 0 && step < impl_->steps) << "step " << step << " of " << impl_->steps;
  GRAFT_CHECK(dp_rank >= 0 && dp_rank < impl_->options.dp_size) << "rank " << dp_rank;
  const std::vector<Example> examples = impl_->ExamplesOf(step);
  StepBatch batch;
  batch.step = step;
  batch.examples = static_cast<int64_t>(examples.size());
  batch.epoch = static_cast<double>(step * impl_->options.global_batch_size) /
                static_cast<double>(impl_->per_epoch);
  std::vector<int> lengths;
  for (const Example& example : examples) {
    lengths.push_back(impl_->LengthOf(example));
    batch.tokens += lengths.back();
    batch.supervised_tokens += impl_->SupervisedOf(example);
  }
  const std::vector<std::vector<Group>> groups = impl_->GroupsOf(lengths, impl_->options.packing);
  const int64_t passes = Passes(groups);
  for (const Group& group : groups[dp_rank]) {
    batch.micro_batches.push_back(impl_->Build(examples, group));
  }
  while (static_cast<int64_t>(batch.micro_batches.size()) < passes) {
    batch.micro_batches.push_back(impl_->Filler(examples, lengths));
  }
  return batch;
}

}  // namespace graft::data
