// A dataset as token ids: every row encoded, with a mask that says which tokens are learnt.
//
//   GRAFT_ASSIGN_OR_RETURN(TokenizedDataset data, TokenizeDataset(dataset, tokenizer, {.chat =
//   &chat,
//       .eos_token_id = 2, .max_seq_length = 2048}));
//   absl::Span<const int32_t> ids = data.ids(7);
//   data.supervised(7, t);                 // whether token t of row 7 is to be predicted
//   data.stats().truncated_rows ...
//
// Sequences: one per row (plain text that is longer goes on in further ones); for preference data
// two, 2i the chosen and 2i+1 the rejected answer of row i (rows_per_example() says which). The
// first token of a sequence is never predicted and so never counts, whatever its mask.
//
// The result can be saved and mapped again; its key holds the digests of everything it was made of.
// Life cycle: immutable. Any thread may read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/data/chat/chat_template.h"
#include "worker/data/dataset/dataset.h"

namespace graft::data {

class Tokenizer;

enum class LossOn {
  kAnswers,     // assistant turns; completions; all of kText
  kAll,         // every token
  kLastAnswer,  // the last assistant turn only
};

struct TokenizeOptions {
  // The template; needed for kChat and for preference rows made of messages.
  const ChatTemplate* chat = nullptr;
  std::string bos_token, eos_token;      // as the template's variables
  int32_t eos_token_id = -1;             // appended to prompt/completion and text rows; must be set
  std::vector<std::string> end_of_turn;  // see ChatInput
  const Json* chat_kwargs = nullptr;     // further template variables, an object or nullptr
  absl::Time now = absl::UnixEpoch();    // strftime_now; freeze it with the job
  // Render prompt/completion rows through the chat template, as a user and an assistant message.
  bool apply_chat_template = false;
  // Put before conversations that do not begin with a system message, if not empty.
  std::string system;

  int max_seq_length = 2048;
  int model_context = 0;  // 0: unknown; else max_seq_length is clamped to it with a warning
  // What is longer than max_seq_length: cut at the end (plain text is split), or left out.
  bool drop_overlong = false;
  // A truncated row that kept no supervised token is dropped with this, else an error.
  bool allow_empty_after_truncation = false;
  LossOn loss_on = LossOn::kAnswers;
  OnBadRow on_bad_row = OnBadRow::kFail;  // rows that cannot be rendered or encoded
  int threads = 1;
  int64_t max_problems = 1000;
};

struct TokenStats {
  int64_t rows = 0;               // kept
  int64_t tokens = 0;             // of kept rows, after truncation
  int64_t supervised_tokens = 0;  // that count in the loss: never the first of a sequence
  int64_t truncated_rows = 0;     // cut at max_seq_length and kept
  int64_t truncated_tokens = 0;   // lost by that
  int64_t dropped_overlong = 0;
  int64_t dropped_empty = 0;  // truncated to nothing supervised
  int64_t bad_rows = 0;       // the template or the tokenizer refused them
  int longest = 0;            // sequence, before truncation
  int max_seq_length = 0;     // after clamping
  std::vector<RowProblem> problems;
  // The rows of the Dataset that bad_rows and dropped_empty count, in order.
  std::vector<int64_t> refused;
  std::vector<DatasetWarning> warnings;

  // Adds what `other`, of another dataset of the same run, counts; a warning that is there already
  // is not repeated. `refused` stays this one's own.
  void Add(const TokenStats& other);
};

class TokenizedDataset {
 public:
  TokenizedDataset();
  TokenizedDataset(TokenizedDataset&&) noexcept;
  TokenizedDataset& operator=(TokenizedDataset&&) noexcept;
  ~TokenizedDataset();

  // Sequences; rows() * sequences_per_row(). stats().rows counts rows of the Dataset.
  int64_t size() const;
  int64_t rows() const { return size() / sequences_per_row(); }
  int sequences_per_row() const;  // 2 for preference data, else 1
  RowFormat format() const;
  const TokenStats& stats() const;
  bool mapped() const;  // Load() made it

  absl::Span<const int32_t> ids(int64_t sequence) const;
  int length(int64_t sequence) const { return static_cast<int>(ids(sequence).size()); }
  // One byte per token, 1 where the token is to be predicted; [0] is always 0.
  absl::Span<const uint8_t> mask(int64_t sequence) const;
  bool supervised(int64_t sequence, int token) const { return mask(sequence)[token] != 0; }
  int supervised_count(int64_t sequence) const;
  // The row of the Dataset that this sequence was made of.
  int64_t source_row(int64_t sequence) const;

  // Writes atomically; Load() maps it. FAILED_PRECONDITION where the file was made of something
  // else than `key`, DATA_LOSS where it is torn.
  absl::Status Save(const std::string& path, absl::string_view key) const;
  static absl::StatusOr<TokenizedDataset> Load(const std::string& path, absl::string_view key);

 private:
  friend class TokenizedDatasetBuilder;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// INVALID_ARGUMENT: rows that cannot be rendered (kFail), a row that was not cut and yet has no
// supervised token, a cut row that kept none (unless allowed), no rows left. The message says the
// first rows by file and line, and how many.
absl::StatusOr<TokenizedDataset> TokenizeDataset(const Dataset& dataset, const Tokenizer& tokenizer,
                                                 const TokenizeOptions& options);

// What TokenizeDataset() depends on, as a key: `dataset_digest`, `tokenizer_digest` and
// `template_digest` with every option that changes tokens.
std::string TokenizedKey(absl::string_view dataset_digest, absl::string_view tokenizer_digest,
                         absl::string_view template_digest, const TokenizeOptions& options);

// One row as tokens, for showing (the supervised part in colour) and for generation tests.
struct TokenizedRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> mask;
  std::string text;                  // what was encoded (chat and text rows)
  std::vector<ByteSpan> supervised;  // of `text`
};
// The sequences of one row, before truncation (one, or two for preference rows).
absl::StatusOr<std::vector<TokenizedRow>> TokenizeRow(RowFormat format, const Row& row,
                                                      const Tokenizer& tokenizer,
                                                      const TokenizeOptions& options);
// `row.text` with the supervised part in `on` ... `off` ("\033[32m", "\033[0m").
std::string HighlightSupervised(const TokenizedRow& row, absl::string_view on,
                                absl::string_view off);

}  // namespace graft::data
