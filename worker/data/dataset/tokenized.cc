#include "worker/data/dataset/tokenized.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

constexpr size_t kShownProblems = 3;
// Rows that one thread encodes at a time, and how many such parts wait to be put together.
constexpr int64_t kRowsPerPart = 64;
constexpr int64_t kPartsPerThread = 16;

constexpr absl::string_view kMagic = "GRAFTTOK";
constexpr uint32_t kFileVersion = 2;
constexpr size_t kAlignment = 64;

// Fixed part of the file; the arrays follow in the order of the counts, each aligned.
struct FileHeader {
  char magic[8];
  uint32_t version;
  uint32_t crc;  // of everything behind the header
  uint64_t meta_bytes;
  uint64_t sequences;
  uint64_t tokens;
  uint64_t file_bytes;
};
static_assert(sizeof(FileHeader) == 48);

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

struct TokenizedDataset::Impl {
  RowFormat format = RowFormat::kChat;
  int per_row = 1;
  TokenStats stats;
  // Own storage while it is built; the spans refer to it or to the mapped file.
  std::vector<int32_t> own_ids, own_supervised;
  std::vector<uint8_t> own_mask;
  std::vector<int64_t> own_starts = {0}, own_rows;
  MappedFile file;

  absl::Span<const int32_t> ids, supervised;
  absl::Span<const uint8_t> mask;
  absl::Span<const int64_t> starts, rows;

  void UseOwn() {
    ids = own_ids;
    supervised = own_supervised;
    mask = own_mask;
    starts = own_starts;
    rows = own_rows;
  }
};

TokenizedDataset::TokenizedDataset() : impl_(std::make_unique<Impl>()) { impl_->UseOwn(); }
TokenizedDataset::TokenizedDataset(TokenizedDataset&&) noexcept = default;
TokenizedDataset& TokenizedDataset::operator=(TokenizedDataset&&) noexcept = default;
TokenizedDataset::~TokenizedDataset() = default;

int64_t TokenizedDataset::size() const { return static_cast<int64_t>(impl_->rows.size()); }
int TokenizedDataset::sequences_per_row() const { return impl_->per_row; }
RowFormat TokenizedDataset::format() const { return impl_->format; }
const TokenStats& TokenizedDataset::stats() const { return impl_->stats; }

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

// Takes rows in order and keeps the account.
class TokenizedDatasetBuilder {
 public:
  TokenizedDatasetBuilder(const Dataset& dataset, const TokenizeOptions& options)
      : dataset_(dataset), options_(options), impl_(*out_.impl_) {
    impl_.format = dataset.format();
    impl_.per_row = dataset.format() == RowFormat::kPreference ? 2 : 1;
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
      return;
    }
    const std::string expected =
        cut ? absl::StrCat("a token to learn within max_seq_length ", impl_.stats.max_seq_length)
            : "at least one token to learn";
    Bad(row, expected, cut ? "an answer that was cut off whole" : "none");
  }

  void Bad(int64_t row, std::string expected, std::string found) {
    if (options_.on_bad_row == OnBadRow::kFail) ++errors_;
    ++impl_.stats.bad_rows;
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

// Encodes the rows of parts [first, last) on `threads` threads.
std::vector<Part> EncodeParts(const Dataset& dataset, const Tokenizer& tokenizer,
                              const TokenizeOptions& options, int64_t first, int64_t last) {
  std::vector<Part> parts(last - first);
  std::atomic<int64_t> next{first};
  const auto work = [&] {
    for (int64_t part = next++; part < last; part = next++) {
      const int64_t end = std::min((part + 1) * kRowsPerPart, dataset.size());
      for (int64_t i = part * kRowsPerPart; i < end; ++i) {
        absl::StatusOr<Row> row = dataset.ReadRow(i);
        parts[part - first].push_back(
            row.ok() ? TokenizeRow(dataset.format(), *row, tokenizer, options)
                     : absl::StatusOr<std::vector<TokenizedRow>>(row.status()));
      }
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < std::min<int64_t>(options.threads, last - first); ++i)
    pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  return parts;
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
  const int64_t parts = (dataset.size() + kRowsPerPart - 1) / kRowsPerPart;
  const int64_t wave = kPartsPerThread * std::max(options.threads, 1);
  for (int64_t first = 0; first < parts; first += wave) {
    const int64_t last = std::min(parts, first + wave);
    int64_t row = first * kRowsPerPart;
    for (Part& part : EncodeParts(dataset, tokenizer, options, first, last)) {
      for (auto& sequences : part) builder.Add(row++, std::move(sequences));
    }
  }
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
       absl::StrCat(static_cast<int>(o.on_bad_row)), absl::StrCat(kFileVersion)},
      "\x1f"));
}

// --- the file

namespace {

Json StatsJson(const TokenStats& s) {
  Json json = Json::MakeObject();
  json.Set("rows", s.rows).Set("tokens", s.tokens).Set("supervised_tokens", s.supervised_tokens);
  json.Set("truncated_rows", s.truncated_rows).Set("truncated_tokens", s.truncated_tokens);
  json.Set("dropped_overlong", s.dropped_overlong).Set("dropped_empty", s.dropped_empty);
  json.Set("bad_rows", s.bad_rows).Set("longest", s.longest);
  json.Set("max_seq_length", s.max_seq_length);
  Json warnings = Json::MakeArray();
  for (const DatasetWarning& warning : s.warnings) {
    Json one = Json::MakeObject();
    warnings.Append(one.Set("code", warning.code).Set("message", warning.message));
  }
  Json problems = Json::MakeArray();
  for (const RowProblem& problem : s.problems) problems.Append(problem.ToJson());
  return json.Set("warnings", warnings).Set("problems", problems);
}

TokenStats StatsOf(const Json& json) {
  TokenStats s;
  s.rows = json.GetInt("rows");
  s.tokens = json.GetInt("tokens");
  s.supervised_tokens = json.GetInt("supervised_tokens");
  s.truncated_rows = json.GetInt("truncated_rows");
  s.truncated_tokens = json.GetInt("truncated_tokens");
  s.dropped_overlong = json.GetInt("dropped_overlong");
  s.dropped_empty = json.GetInt("dropped_empty");
  s.bad_rows = json.GetInt("bad_rows");
  s.longest = static_cast<int>(json.GetInt("longest"));
  s.max_seq_length = static_cast<int>(json.GetInt("max_seq_length"));
  if (const Json* warnings = json.Find("warnings"); warnings != nullptr && warnings->is_array()) {
    for (const Json& one : warnings->as_array()) {
      s.warnings.push_back({one.GetString("code"), one.GetString("message")});
    }
  }
  if (const Json* problems = json.Find("problems"); problems != nullptr && problems->is_array()) {
    for (const Json& one : problems->as_array()) s.problems.push_back(RowProblem::FromJson(one));
  }
  return s;
}

template <typename T>
absl::string_view BytesOf(absl::Span<const T> values) {
  return absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Writes a part of the file and what fills it up to the alignment.
absl::Status WritePart(int fd, absl::string_view bytes, uint32_t& crc) {
  static constexpr char kZeros[kAlignment] = {};
  for (const absl::string_view part :
       {bytes, absl::string_view(kZeros, Aligned(bytes.size()) - bytes.size())}) {
    crc = Crc32c(crc, part);
    for (size_t done = 0; done < part.size();) {
      const ssize_t n = write(fd, part.data() + done, part.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "writing tokens");
      done += static_cast<size_t>(n);
    }
  }
  return absl::OkStatus();
}

// The whole file: the header, its checksum once it is known, and the parts.
absl::Status WriteFile(int fd, FileHeader header, absl::Span<const absl::string_view> parts) {
  uint32_t ignored = 0;
  const absl::string_view header_bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  GRAFT_RETURN_IF_ERROR(WritePart(fd, header_bytes, ignored));
  for (const absl::string_view part : parts) {
    GRAFT_RETURN_IF_ERROR(WritePart(fd, part, header.crc));
  }
  if (fchmod(fd, 0644) != 0 || pwrite(fd, &header, sizeof(header), 0) != sizeof(header) ||
      fsync(fd) != 0) {
    return ErrnoStatus(errno, "writing tokens");
  }
  return absl::OkStatus();
}

// The next array of a mapped file.
template <typename T>
absl::Span<const T> TakePart(absl::string_view& bytes, uint64_t count) {
  const auto* data = reinterpret_cast<const T*>(bytes.data());
  bytes.remove_prefix(Aligned(count * sizeof(T)));
  return absl::MakeConstSpan(data, count);
}

}  // namespace

absl::Status TokenizedDataset::Save(const std::string& path, absl::string_view key) const {
  Json meta = Json::MakeObject();
  meta.Set("key", key).Set("format", RowFormatName(impl_->format)).Set("per_row", impl_->per_row);
  meta.Set("stats", StatsJson(impl_->stats));
  const std::string meta_text = meta.Dump();
  const absl::string_view parts[] = {
      meta_text,           BytesOf(impl_->starts), BytesOf(impl_->rows), BytesOf(impl_->supervised),
      BytesOf(impl_->ids), BytesOf(impl_->mask)};
  FileHeader header = {};
  std::memcpy(header.magic, kMagic.data(), sizeof(header.magic));
  header.version = kFileVersion;
  header.meta_bytes = meta_text.size();
  header.sequences = impl_->rows.size();
  header.tokens = impl_->ids.size();
  header.file_bytes = Aligned(sizeof(header));
  for (const absl::string_view part : parts) header.file_bytes += Aligned(part.size());
  // A name of its own: several processes may write the same tokens at the same time.
  std::string partial = path + ".partial.XXXXXX";
  const UniqueFd fd(mkostemp(partial.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, partial);
  const absl::Status written = WriteFile(fd.get(), header, parts);
  if (!written.ok() || rename(partial.c_str(), path.c_str()) != 0) {
    const absl::Status status = written.ok() ? ErrnoStatus(errno, path) : written;
    unlink(partial.c_str());
    return status;
  }
  const size_t slash = path.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

absl::StatusOr<TokenizedDataset> TokenizedDataset::Load(const std::string& path,
                                                        absl::string_view key) {
  TokenizedDataset out;
  Impl& impl = *out.impl_;
  GRAFT_ASSIGN_OR_RETURN(impl.file, MappedFile::Open(path));
  absl::string_view bytes = impl.file.bytes();
  const auto torn = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(path, ": ", why, "; make the tokens again"));
  };
  FileHeader header;
  if (bytes.size() < Aligned(sizeof(header))) return torn("the file is too short");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (absl::string_view(header.magic, 8) != kMagic) return torn("not a file of tokens");
  if (header.version != kFileVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": version ", header.version, ", expected ", kFileVersion));
  }
  bytes.remove_prefix(Aligned(sizeof(header)));
  const uint64_t largest = bytes.size();
  if (header.file_bytes != impl.file.bytes().size() || header.meta_bytes > largest ||
      header.sequences > largest || header.tokens > largest) {
    return torn("the file is cut off");
  }
  const uint64_t wanted = Aligned(header.meta_bytes) + Aligned((header.sequences + 1) * 8) +
                          Aligned(header.sequences * 8) + Aligned(header.sequences * 4) +
                          Aligned(header.tokens * 4) + Aligned(header.tokens);
  if (wanted != bytes.size()) return torn("the sizes do not fit");
  if (Crc32c(0, bytes) != header.crc) return torn("the checksum is wrong");
  GRAFT_ASSIGN_OR_RETURN(const Json meta, Json::Parse(bytes.substr(0, header.meta_bytes)));
  if (meta.GetString("key") != key) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": made of another dataset, tokenizer, template or options"));
  }
  bytes.remove_prefix(Aligned(header.meta_bytes));
  GRAFT_ASSIGN_OR_RETURN(impl.format, ParseRowFormat(meta.GetString("format")));
  impl.per_row = static_cast<int>(meta.GetInt("per_row", 1));
  if (const Json* stats = meta.Find("stats"); stats != nullptr) impl.stats = StatsOf(*stats);
  impl.starts = TakePart<int64_t>(bytes, header.sequences + 1);
  impl.rows = TakePart<int64_t>(bytes, header.sequences);
  impl.supervised = TakePart<int32_t>(bytes, header.sequences);
  impl.ids = TakePart<int32_t>(bytes, header.tokens);
  impl.mask = TakePart<uint8_t>(bytes, header.tokens);
  return out;
}

}  // namespace graft::data
