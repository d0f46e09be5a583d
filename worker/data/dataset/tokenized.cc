#include "worker/data/dataset/tokenized.h"

#include <sys/mman.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "worker/data/dataset/tokenize_row.h"
#include "worker/data/dataset/tokenized_impl.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

// Rows that one thread encodes at a time, and how many such parts may wait to be put together.
constexpr int64_t kRowsPerPart = 64;
constexpr int64_t kPartsPerThread = 4;
// Room for tokens that is asked for at the start: about so many bytes of a file make one, and what
// is not used is never touched. More grows by itself.
constexpr int64_t kBytesPerToken = 4;
constexpr int64_t kMaxReservedTokens = int64_t{64} << 20;
constexpr uintptr_t kLargePage = uintptr_t{2} << 20;

// Room for `count` more, in large pages where the system has them: to touch the tokens of a dataset
// small page by small page costs as much as to render it.
template <typename T>
void ReserveLarge(std::vector<T>& items, int64_t count) {
  items.reserve(count);
  const auto begin = reinterpret_cast<uintptr_t>(items.data());
  const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (begin + count * sizeof(T)) / kLargePage * kLargePage;
  // A wish: without it all is the same, only slower.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace

TokenizedDataset::TokenizedDataset() : impl_(std::make_unique<Impl>()) { impl_->UseOwn(); }
TokenizedDataset::TokenizedDataset(TokenizedDataset&&) noexcept = default;
TokenizedDataset& TokenizedDataset::operator=(TokenizedDataset&&) noexcept = default;
TokenizedDataset::~TokenizedDataset() = default;

int64_t TokenizedDataset::size() const { return static_cast<int64_t>(impl_->rows.size()); }
int TokenizedDataset::sequences_per_row() const { return impl_->per_row; }
RowFormat TokenizedDataset::format() const { return impl_->format; }
const TokenStats& TokenizedDataset::stats() const { return impl_->stats; }
bool TokenizedDataset::mapped() const { return impl_->own_rows.empty(); }

absl::Span<const int32_t> TokenizedDataset::ids(int64_t sequence) const {
  GRAFT_CHECK(sequence >= 0 && sequence < size()) << "sequence " << sequence;
  const int64_t begin = impl_->starts[sequence];
  return impl_->ids.subspan(begin, impl_->starts[sequence + 1] - begin);
}
absl::Span<const uint8_t> TokenizedDataset::mask(int64_t sequence) const {
  GRAFT_CHECK(sequence >= 0 && sequence < size()) << "sequence " << sequence;
  const int64_t begin = impl_->starts[sequence];
  return impl_->mask.subspan(begin, impl_->starts[sequence + 1] - begin);
}
int TokenizedDataset::supervised_count(int64_t sequence) const {
  return impl_->supervised[sequence];
}
int64_t TokenizedDataset::source_row(int64_t sequence) const { return impl_->rows[sequence]; }

void TokenStats::Add(const TokenStats& other) {
  rows += other.rows;
  tokens += other.tokens;
  supervised_tokens += other.supervised_tokens;
  truncated_rows += other.truncated_rows;
  truncated_tokens += other.truncated_tokens;
  dropped_overlong += other.dropped_overlong;
  dropped_empty += other.dropped_empty;
  bad_rows += other.bad_rows;
  longest = std::max(longest, other.longest);
  max_seq_length = std::max(max_seq_length, other.max_seq_length);
  problems.insert(problems.end(), other.problems.begin(), other.problems.end());
  for (const DatasetWarning& warning : other.warnings) {
    const bool known =
        std::any_of(warnings.begin(), warnings.end(), [&](const DatasetWarning& mine) {
          return mine.code == warning.code && mine.message == warning.message;
        });
    if (!known) warnings.push_back(warning);
  }
}

// Takes rows in order and keeps the account.
class TokenizedDatasetBuilder {
 public:
  TokenizedDatasetBuilder(const Dataset& dataset, const TokenizeOptions& options)
      : dataset_(dataset), options_(options), impl_(*out_.impl_) {
    impl_.format = dataset.format();
    impl_.per_row = dataset.format() == RowFormat::kPreference ? 2 : 1;
    const int64_t tokens = std::min(dataset.report().bytes / kBytesPerToken, kMaxReservedTokens);
    ReserveLarge(impl_.own_ids, tokens);
    ReserveLarge(impl_.own_mask, tokens);
    TokenStats& stats = impl_.stats;
    stats.max_seq_length = options.max_seq_length;
    if (options.model_context > 0 && options.max_seq_length > options.model_context) {
      stats.max_seq_length = options.model_context;
      stats.warnings.push_back(
          {"max_seq_length_clamped",
           absl::StrCat("max_seq_length ", options.max_seq_length,
                        " is above the model's context; ", options.model_context, " is used")});
    }
  }

  void Add(int64_t row, absl::StatusOr<std::vector<TokenizedRow>> sequences) {
    if (!sequences.ok()) return Bad(row, "", std::string(sequences.status().message()));
    TokenStats& stats = impl_.stats;
    if (impl_.format == RowFormat::kText && !options_.drop_overlong) {
      SplitText((*sequences)[0], *sequences);
    }
    bool cut = false;
    int64_t lost = 0;
    for (TokenizedRow& tokens : *sequences) {
      stats.longest = std::max(stats.longest, static_cast<int>(tokens.ids.size()));
      const auto limit = static_cast<size_t>(stats.max_seq_length);
      if (tokens.ids.size() <= limit) continue;
      cut = true;
      lost += static_cast<int64_t>(tokens.ids.size() - limit);
      tokens.ids.resize(limit);
      tokens.mask.resize(limit);
    }
    if (cut && options_.drop_overlong) {
      ++stats.dropped_overlong;
      return;
    }
    for (const TokenizedRow& tokens : *sequences) {
      if (std::count(tokens.mask.begin(), tokens.mask.end(), 1) > 0) continue;
      return Empty(row, cut);
    }
    stats.truncated_rows += cut;
    stats.truncated_tokens += lost;
    for (const TokenizedRow& tokens : *sequences) Append(row, tokens);
    ++stats.rows;
  }

  // Plain text has no end that must be kept together: what is longer than a sequence goes on in the
  // next one. A last piece of one token, which predicts nothing, is dropped.
  void SplitText(TokenizedRow whole, std::vector<TokenizedRow>& pieces) {
    const auto limit = static_cast<size_t>(impl_.stats.max_seq_length);
    impl_.stats.longest = std::max(impl_.stats.longest, static_cast<int>(whole.ids.size()));
    if (whole.ids.size() <= limit) return;
    pieces.clear();
    for (size_t begin = 0; begin + 1 < whole.ids.size(); begin += limit) {
      const size_t end = std::min(begin + limit, whole.ids.size());
      TokenizedRow piece;
      piece.ids.assign(whole.ids.begin() + static_cast<ptrdiff_t>(begin),
                       whole.ids.begin() + static_cast<ptrdiff_t>(end));
      piece.mask.assign(piece.ids.size(), 1);
      piece.mask[0] = 0;
      pieces.push_back(std::move(piece));
    }
  }

  absl::StatusOr<TokenizedDataset> Finish() {
    const TokenStats& stats = impl_.stats;
    if (errors_ > 0) {
      std::string message =
          absl::StrCat(errors_, " of ", dataset_.size(), " rows cannot be trained on");
      for (size_t i = 0; i < std::min(stats.problems.size(), kShownProblems); ++i) {
        absl::StrAppend(&message, "\n  ", stats.problems[i].ToString());
      }
      return absl::InvalidArgumentError(message);
    }
    if (stats.rows == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "no row is left: ", stats.bad_rows, " bad, ", stats.dropped_overlong, " longer than ",
          stats.max_seq_length, " tokens, ", stats.dropped_empty, " without a token to learn"));
    }
    impl_.UseOwn();
    return std::move(out_);
  }

 private:
  void Append(int64_t row, const TokenizedRow& tokens) {
    const auto learnt = static_cast<int32_t>(std::count(tokens.mask.begin(), tokens.mask.end(), 1));
    impl_.own_ids.insert(impl_.own_ids.end(), tokens.ids.begin(), tokens.ids.end());
    impl_.own_mask.insert(impl_.own_mask.end(), tokens.mask.begin(), tokens.mask.end());
    impl_.own_starts.push_back(static_cast<int64_t>(impl_.own_ids.size()));
    impl_.own_rows.push_back(row);
    impl_.own_supervised.push_back(learnt);
    impl_.stats.tokens += static_cast<int64_t>(tokens.ids.size());
    impl_.stats.supervised_tokens += learnt;
  }

  void Empty(int64_t row, bool cut) {
    if (cut && (options_.allow_empty_after_truncation || options_.on_bad_row == OnBadRow::kSkip)) {
      ++impl_.stats.dropped_empty;
      impl_.stats.refused.push_back(row);
      return;
    }
    const std::string expected =
        cut ? absl::StrCat("a token to learn within max_seq_length ", impl_.stats.max_seq_length)
            : "at least one token to learn";
    Bad(row, expected,
        cut ? "an answer that was cut off whole (a longer max_seq_length keeps it, on_bad_row skip "
              "leaves the row out)"
            : "none");
  }

  void Bad(int64_t row, std::string expected, std::string found) {
    if (options_.on_bad_row == OnBadRow::kFail) ++errors_;
    ++impl_.stats.bad_rows;
    impl_.stats.refused.push_back(row);
    if (static_cast<int64_t>(impl_.stats.problems.size()) >= options_.max_problems) return;
    const RowLocation where = dataset_.Locate(row);
    RowProblem problem;
    problem.file = dataset_.FileName(where.file);
    problem.row = where.row;
    problem.line = where.line;
    problem.expected = std::move(expected);
    problem.found = std::move(found);
    impl_.stats.problems.push_back(std::move(problem));
  }

  const Dataset& dataset_;
  const TokenizeOptions& options_;
  TokenizedDataset out_;
  TokenizedDataset::Impl& impl_;
  int64_t errors_ = 0;
};

namespace {

using Part = std::vector<absl::StatusOr<std::vector<TokenizedRow>>>;

// Parts are made by many threads and taken in their order, by whichever thread has just finished
// the one that is due: nobody waits for the others but who is a whole window ahead.
class OrderedParts {
 public:
  OrderedParts(int64_t parts, int64_t window, absl::FunctionRef<Part(int64_t, Encoding&)> make,
               absl::FunctionRef<void(Part)> take)
      : parts_(parts), make_(make), take_(take), made_(window) {}

  // Returns when every part is taken.
  void Run(int threads) {
    std::vector<std::thread> pool;
    for (int i = 1; i < std::min<int64_t>(threads, parts_); ++i) {
      pool.emplace_back([this] { Work(); });
    }
    Work();
    for (std::thread& thread : pool) thread.join();
  }

 private:
  void Work() {
    Encoding buffers;
    MutexLock lock(mutex_);
    for (;;) {
      while (!MayGoOn()) may_go_on_.Wait(mutex_);
      if (next_ == parts_) return;
      const int64_t part = next_++;
      if (next_ == parts_) may_go_on_.SignalAll();
      mutex_.Unlock();
      Part made = make_(part, buffers);
      mutex_.Lock();
      made_[part % Window()] = std::move(made);
      TakeWhatIsDue();
    }
  }

  void TakeWhatIsDue() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (taking_) return;
    taking_ = true;
    while (made_[taken_ % Window()].has_value()) {
      Part part = *std::exchange(made_[taken_ % Window()], absl::nullopt);
      mutex_.Unlock();
      take_(std::move(part));
      mutex_.Lock();
      ++taken_;
      may_go_on_.SignalAll();
    }
    taking_ = false;
  }

  bool MayGoOn() const GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return next_ == parts_ || next_ - taken_ < Window();
  }
  int64_t Window() const GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return static_cast<int64_t>(made_.size());
  }

  const int64_t parts_;
  const absl::FunctionRef<Part(int64_t, Encoding&)> make_;
  const absl::FunctionRef<void(Part)> take_;
  Mutex mutex_;
  CondVar may_go_on_;
  int64_t next_ GRAFT_GUARDED_BY(mutex_) = 0;   // to be made
  int64_t taken_ GRAFT_GUARDED_BY(mutex_) = 0;  // all before it are
  bool taking_ GRAFT_GUARDED_BY(mutex_) = false;
  // Parts that were made and are not taken, at their number modulo the window.
  std::vector<absl::optional<Part>> made_ GRAFT_GUARDED_BY(mutex_);
};

// Encodes the rows of a part.
Part EncodePart(const Dataset& dataset, const Tokenizer& tokenizer, const TokenizeOptions& options,
                int64_t part, Encoding& buffers) {
  Part out;
  const int64_t end = std::min((part + 1) * kRowsPerPart, dataset.size());
  for (int64_t i = part * kRowsPerPart; i < end; ++i) {
    absl::StatusOr<Row> row = dataset.ReadRow(i);
    out.push_back(row.ok() ? TokenizeRow(dataset.format(), *row, tokenizer, options, buffers)
                           : absl::StatusOr<std::vector<TokenizedRow>>(row.status()));
  }
  return out;
}

}  // namespace

absl::StatusOr<TokenizedDataset> TokenizeDataset(const Dataset& dataset, const Tokenizer& tokenizer,
                                                 const TokenizeOptions& options) {
  if (options.max_seq_length < 2) {
    return absl::InvalidArgumentError("max_seq_length must be at least 2");
  }
  const bool needs_template = dataset.format() == RowFormat::kChat || options.apply_chat_template;
  if (needs_template && options.chat == nullptr) {
    return absl::FailedPreconditionError(
        "the rows are conversations and the model has no chat template; give one, or use "
        "prompt/completion rows");
  }
  TokenizedDatasetBuilder builder(dataset, options);
  const int threads = std::max(options.threads, 1);
  int64_t row = 0;
  OrderedParts((dataset.size() + kRowsPerPart - 1) / kRowsPerPart, kPartsPerThread * threads,
               [&](int64_t part, Encoding& buffers) {
                 return EncodePart(dataset, tokenizer, options, part, buffers);
               },
               [&](Part part) {
                 for (auto& sequences : part) builder.Add(row++, std::move(sequences));
               })
      .Run(threads);
  return builder.Finish();
}

std::string TokenizedKey(absl::string_view dataset_digest, absl::string_view tokenizer_digest,
                         absl::string_view template_digest, const TokenizeOptions& o) {
  return Sha256::HexOf(absl::StrJoin(
      {std::string(dataset_digest), std::string(tokenizer_digest), std::string(template_digest),
       o.bos_token, o.eos_token, absl::StrCat(o.eos_token_id), absl::StrJoin(o.end_of_turn, ","),
       o.chat_kwargs == nullptr ? std::string() : o.chat_kwargs->Dump(),
       absl::StrCat(absl::ToUnixSeconds(o.now)), absl::StrCat(o.apply_chat_template), o.system,
       absl::StrCat(o.max_seq_length), absl::StrCat(o.model_context), absl::StrCat(o.drop_overlong),
       absl::StrCat(o.allow_empty_after_truncation), absl::StrCat(static_cast<int>(o.loss_on)),
       absl::StrCat(static_cast<int>(o.on_bad_row)), absl::StrCat(kTokenFileVersion)},
      "\x1f"));
}

}  // namespace graft::data
