#include "worker/data/dataset/dataset.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/data/dataset/row_schema.h"
#include "worker/data/dataset/row_source.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// The piece of a file that one thread reads at a time.
constexpr size_t kChunkBytes = 8 << 20;

constexpr std::pair<RowFormat, absl::string_view> kFormatNames[] = {
    {RowFormat::kAuto, "auto"},
    {RowFormat::kChat, "chat"},
    {RowFormat::kPromptCompletion, "prompt_completion"},
    {RowFormat::kText, "text"},
    {RowFormat::kPreference, "preference"}};

struct Source {
  std::string path;
  MappedFile file;
  std::string converted;    // the content, where the file is not UTF-8 but in a known encoding
  absl::string_view bytes;  // of the file or of `converted`, behind the byte order mark
  SourceKind kind = SourceKind::kLines;
  std::vector<std::string> header;  // kCsv
};

struct IndexedRow {
  int64_t offset;  // into Source::bytes
  uint32_t length;
  int32_t source;
  uint32_t line;
  uint32_t row;  // in its file, bad rows counted
};

// What reading a piece of a file gives. Lines and rows are counted from 0.
struct Piece {
  std::vector<IndexedRow> good, bad;
  std::vector<RowProblem> problems;  // one per bad row, up to the limit
  int64_t lines = 0;
  int64_t rows = 0;
};

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

absl::StatusOr<Json> ParseRow(const Source& source, absl::string_view text) {
  if (source.kind == SourceKind::kCsv) return ParseRecord(text, source.header);
  return Json::Parse(text, {.allow_nan = true});
}

// "... line 1, column 17 ..." of the parser's message as a column of the row.
int64_t ColumnOf(absl::string_view message) {
  const size_t at = message.find("column ");
  int64_t column = 0;
  for (size_t i = at + 7; at != absl::string_view::npos && i < message.size() &&
                          message[i] >= '0' && message[i] <= '9';
       ++i) {
    column = column * 10 + (message[i] - '0');
  }
  return column;
}

class RowChecker {
 public:
  RowChecker(const Source& source, int32_t index, const DatasetOptions& options, RowFormat format)
      : source_(source), index_(index), options_(options), format_(format) {}

  void Check(const SourceRow& raw, Piece& piece) const {
    const IndexedRow row{raw.text.data() - source_.bytes.data(),
                         static_cast<uint32_t>(raw.text.size()), index_,
                         static_cast<uint32_t>(raw.line), static_cast<uint32_t>(piece.rows++)};
    RowProblem problem;
    if (Read(raw.text, problem)) {
      piece.good.push_back(row);
      return;
    }
    piece.bad.push_back(row);
    if (static_cast<int64_t>(piece.problems.size()) >= options_.max_problems) return;
    problem.file = source_.path;
    problem.row = row.row;
    problem.line = raw.line;
    piece.problems.push_back(std::move(problem));
  }

 private:
  bool Read(absl::string_view text, RowProblem& problem) const {
    if (const size_t valid = ValidUtf8Prefix(text); valid < text.size()) {
      const auto byte = static_cast<unsigned>(static_cast<uint8_t>(text[valid]));
      problem.column = static_cast<int64_t>(valid) + 1;
      problem.expected = "UTF-8";
      problem.found = absl::StrCat("byte 0x", absl::Hex(byte, absl::kZeroPad2),
                                   ", as Windows-1252 has it (iconv -f WINDOWS-1252 -t UTF-8)");
      return false;
    }
    absl::StatusOr<Json> json = ParseRow(source_, text);
    if (!json.ok()) {
      problem.column = ColumnOf(json.status().message());
      problem.expected = source_.kind == SourceKind::kCsv ? "a CSV record" : "a JSON object";
      problem.found = std::string(json.status().message());
      return false;
    }
    Row row;
    absl::optional<SchemaProblem> wrong = ReadRow(format_, options_, *std::move(json), row);
    if (!wrong.has_value()) return true;
    problem.path = std::move(wrong->path);
    problem.expected = std::move(wrong->expected);
    problem.found = std::move(wrong->found);
    if (source_.kind != SourceKind::kCsv) {
      // A row of a pretty-printed array has lines of its own; the column counts from its start.
      problem.column = static_cast<int64_t>(LocatePath(text, problem.path)) + 1;
    }
    return false;
  }

  const Source& source_;
  const int32_t index_;
  const DatasetOptions& options_;
  const RowFormat format_;
};

// Gives the pages of a part that has been read back to the system, so that a large file does not
// count as memory of this process.
void Release(absl::string_view bytes) {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

std::vector<absl::string_view> ChunksOf(absl::string_view bytes) {
  std::vector<absl::string_view> chunks;
  for (size_t pos = 0; pos < bytes.size();) {
    size_t end = std::min(pos + kChunkBytes, bytes.size());
    if (end < bytes.size()) {
      end = bytes.find('\n', end);
      end = end == absl::string_view::npos ? bytes.size() : end + 1;
    }
    chunks.push_back(bytes.substr(pos, end - pos));
    pos = end;
  }
  return chunks;
}

std::vector<Piece> ReadLines(const Source& source, const RowChecker& checker, int threads) {
  const std::vector<absl::string_view> chunks = ChunksOf(source.bytes);
  std::vector<Piece> pieces(chunks.size());
  const auto work = [&](size_t first, size_t stride) {
    for (size_t i = first; i < chunks.size(); i += stride) {
      ForEachLine(chunks[i], 0, [&](const SourceRow& raw) { checker.Check(raw, pieces[i]); });
      pieces[i].lines = std::count(chunks[i].begin(), chunks[i].end(), '\n');
      Release(chunks[i]);
    }
  };
  const size_t workers = std::clamp<size_t>(threads, 1, std::max<size_t>(chunks.size(), 1));
  std::vector<std::thread> pool;
  for (size_t i = 1; i < workers; ++i) pool.emplace_back(work, i, workers);
  work(0, workers);
  for (std::thread& thread : pool) thread.join();
  return pieces;
}

}  // namespace

absl::string_view RowFormatName(RowFormat format) {
  for (const auto& [value, name] : kFormatNames) {
    if (value == format) return name;
  }
  return "?";
}

absl::StatusOr<RowFormat> ParseRowFormat(absl::string_view name) {
  for (const auto& [value, known] : kFormatNames) {
    if (known == name) return value;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown dataset format '", name,
                   "': expected auto, chat, prompt_completion, text or preference"));
}

Json RowProblem::ToJson() const {
  return Json::MakeObject()
      .Set("file", file)
      .Set("row", row)
      .Set("line", line)
      .Set("column", column)
      .Set("path", path)
      .Set("expected", expected)
      .Set("found", found);
}

RowProblem RowProblem::FromJson(const Json& json) {
  return {json.GetString("file"), json.GetInt("row"),     json.GetInt("line"),
          json.GetInt("column"),  json.GetString("path"), json.GetString("expected"),
          json.GetString("found")};
}

std::string RowProblem::ToString() const {
  std::string out = file;
  if (line > 0) absl::StrAppend(&out, ":", line);
  if (line > 0 && column > 0) absl::StrAppend(&out, ":", column);
  absl::StrAppend(&out, ": ");
  if (!path.empty()) absl::StrAppend(&out, path, ": ");
  if (!expected.empty()) absl::StrAppend(&out, "expected ", expected, ", found ");
  return absl::StrCat(out, found);
}

struct Dataset::Impl {
  DatasetOptions options;
  DatasetReport report;
  std::vector<Source> sources;
  std::vector<IndexedRow> good, bad;

  absl::Status Load(const std::vector<std::string>& paths);
  absl::StatusOr<RowFormat> Detect() const;
  absl::Status ReadSource(int32_t index);
  void Merge(Piece piece, int64_t first_line, int64_t first_row);
  absl::string_view BytesOf(const IndexedRow& row) const {
    return sources[row.source].bytes.substr(row.offset, row.length);
  }
};

absl::Status Dataset::Impl::Load(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    Source source;
    source.path = path;
    GRAFT_ASSIGN_OR_RETURN(source.file, MappedFile::Open(path));
    GRAFT_ASSIGN_OR_RETURN(source.kind, KindOfSource(path, source.file.bytes()));
    report.bytes += static_cast<int64_t>(source.file.bytes().size());
    if (source.kind == SourceKind::kCsv && !IsValidUtf8(source.file.bytes())) {
      if (auto text = FromWindows1252(source.file.bytes()); text.has_value()) {
        source.converted = *std::move(text);
        report.warnings.push_back(
            {"read_as_windows_1252", path + " is not UTF-8 and is read as Windows-1252"});
      }
    }
    if (WithoutBom(source.file.bytes()).empty()) {
      report.warnings.push_back({"empty_file", path + " is empty"});
    }
    sources.push_back(std::move(source));
  }
  // Now that no source moves any more.
  for (Source& source : sources) {
    source.bytes = WithoutBom(source.converted.empty() ? source.file.bytes() : source.converted);
  }
  report.files = static_cast<int64_t>(sources.size());
  return absl::OkStatus();
}

// The format of the first row that can be parsed.
absl::StatusOr<RowFormat> Dataset::Impl::Detect() const {
  std::string seen;
  for (const Source& source : sources) {
    absl::optional<RowFormat> format;
    bool done = false;
    Source view;
    view.kind = source.kind;
    const auto look = [&](const SourceRow& raw) {
      if (done) return;
      const absl::StatusOr<Json> json = ParseRow(view, raw.text);
      if (!json.ok() || !json->is_object()) {
        if (!seen.empty()) return;
        seen = absl::StrCat("line ", raw.line, ": ",
                            json.ok() ? json->type_name() : json.status().message());
        return;
      }
      done = true;
      format = DetectFormat(*json, options);
      std::vector<std::string> names;
      for (const auto& [key, value] : json->as_object()) names.push_back(key);
      seen = absl::StrCat("members ", absl::StrJoin(names, ", "));
    };
    // The first rows are enough, and do not touch the whole of a large file.
    const absl::string_view head = source.bytes.substr(0, kChunkBytes);
    absl::Status status;
    if (source.kind == SourceKind::kLines) {
      ForEachLine(head, 1, look);
    } else if (source.kind == SourceKind::kArray) {
      status = ForEachElement(head, look);
    } else {
      status = ForEachRecord(head, view.header, look);
    }
    if (format.has_value()) return *format;
    if (!status.ok() && !done && head.size() == source.bytes.size()) {
      return absl::Status(status.code(), absl::StrCat(source.path, ", ", status.message()));
    }
    if (done) break;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      sources.empty() ? "no files" : sources[0].path, ": the format is not known: found ",
      seen.empty() ? "no rows" : seen,
      "; expected \"messages\" (chat), \"prompt\" and \"completion\", \"text\", or \"prompt\", "
      "\"chosen\" and \"rejected\"; other names can be given as prompt_template or field names"));
}

void Dataset::Impl::Merge(Piece piece, int64_t first_line, int64_t first_row) {
  const auto take = [&](std::vector<IndexedRow>& from, std::vector<IndexedRow>& to) {
    for (IndexedRow& row : from) {
      row.line += static_cast<uint32_t>(first_line);
      row.row += static_cast<uint32_t>(first_row);
      to.push_back(row);
    }
  };
  take(piece.good, good);
  take(piece.bad, bad);
  for (RowProblem& problem : piece.problems) {
    if (static_cast<int64_t>(report.problems.size()) >= options.max_problems) break;
    problem.line += first_line;
    problem.row += first_row;
    report.problems.push_back(std::move(problem));
  }
}

absl::Status Dataset::Impl::ReadSource(int32_t index) {
  Source& source = sources[index];
  const RowChecker checker(source, index, options, report.format);
  if (source.kind == SourceKind::kLines) {
    int64_t line = 1;
    int64_t row = 0;
    for (Piece& piece : ReadLines(source, checker, options.threads)) {
      const int64_t lines = piece.lines;
      const int64_t rows = piece.rows;
      Merge(std::move(piece), line, row);
      line += lines;
      row += rows;
    }
    return absl::OkStatus();
  }
  Piece piece;
  const auto check = [&](const SourceRow& raw) { checker.Check(raw, piece); };
  const absl::Status status = source.kind == SourceKind::kArray
                                  ? ForEachElement(source.bytes, check)
                                  : ForEachRecord(source.bytes, source.header, check);
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat(source.path, ", ", status.message()));
  }
  Merge(std::move(piece), 0, 0);
  if (source.converted.empty()) Release(source.bytes);
  return absl::OkStatus();
}

absl::StatusOr<Dataset> Dataset::Open(const std::vector<std::string>& paths,
                                      const DatasetOptions& options) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  GRAFT_RETURN_IF_ERROR(impl->Load(paths));
  impl->report.format = options.format;
  if (options.format == RowFormat::kAuto) {
    GRAFT_ASSIGN_OR_RETURN(impl->report.format, impl->Detect());
  }
  for (size_t i = 0; i < impl->sources.size(); ++i) {
    GRAFT_RETURN_IF_ERROR(impl->ReadSource(static_cast<int32_t>(i)));
  }
  if (options.max_rows > 0 && static_cast<int64_t>(impl->good.size()) > options.max_rows) {
    impl->good.resize(options.max_rows);
  }
  impl->report.rows = static_cast<int64_t>(impl->good.size());
  impl->report.bad_rows = static_cast<int64_t>(impl->bad.size());
  if (impl->good.empty() && impl->bad.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(absl::StrJoin(paths, ", "), ": no rows in the dataset"));
  }
  return Dataset(std::move(impl));
}

Dataset::Dataset(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Dataset::Dataset(Dataset&&) noexcept = default;
Dataset& Dataset::operator=(Dataset&&) noexcept = default;
Dataset::~Dataset() = default;

const DatasetReport& Dataset::report() const { return impl_->report; }
const DatasetOptions& Dataset::options() const { return impl_->options; }
int64_t Dataset::size() const { return static_cast<int64_t>(impl_->good.size()); }
const std::string& Dataset::FileName(int32_t file) const { return impl_->sources[file].path; }

absl::Status Dataset::status() const {
  const DatasetReport& report = impl_->report;
  if (report.bad_rows > 0 && impl_->options.on_bad_row == OnBadRow::kFail) {
    std::string message = absl::StrCat(report.bad_rows, " of ", report.bad_rows + report.rows,
                                       " rows are bad; fix them, or set on_bad_row to skip");
    for (size_t i = 0; i < std::min(report.problems.size(), kShownProblems); ++i) {
      absl::StrAppend(&message, "\n  ", report.problems[i].ToString());
    }
    return absl::InvalidArgumentError(message);
  }
  if (report.rows == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "all ", report.bad_rows,
        " rows are bad: ", report.problems.empty() ? "" : report.problems[0].ToString()));
  }
  return absl::OkStatus();
}

RowLocation Dataset::Locate(int64_t row) const {
  GRAFT_CHECK(row >= 0 && row < size()) << "row " << row << " of " << size();
  const IndexedRow& indexed = impl_->good[row];
  return {indexed.source, indexed.row, indexed.line, indexed.offset, indexed.length};
}

absl::string_view Dataset::RawRow(int64_t row) const {
  GRAFT_CHECK(row >= 0 && row < size()) << "row " << row << " of " << size();
  return impl_->BytesOf(impl_->good[row]);
}

absl::StatusOr<Row> Dataset::ReadRow(int64_t row) const {
  GRAFT_CHECK(row >= 0 && row < size()) << "row " << row << " of " << size();
  const Source& source = impl_->sources[impl_->good[row].source];
  GRAFT_ASSIGN_OR_RETURN(Json json, ParseRow(source, RawRow(row)));
  Row out;
  const absl::optional<SchemaProblem> problem =
      data::ReadRow(impl_->report.format, impl_->options, std::move(json), out);
  if (problem.has_value()) {
    return absl::DataLossError(absl::StrCat(source.path, ": row ", impl_->good[row].row,
                                            " has changed since it was checked"));
  }
  return out;
}

absl::StatusOr<std::string> Dataset::ContentDigest() const {
  const DatasetOptions& o = impl_->options;
  const FieldNames& f = o.fields;
  Sha256 sha;
  for (const Source& source : impl_->sources) {
    sha.Update(absl::StrCat("file ", source.file.bytes().size(), " ", BaseName(source.path), "\n"));
    for (const absl::string_view chunk : ChunksOf(source.file.bytes())) {
      sha.Update(chunk);
      Release(chunk);
    }
  }
  sha.Update(absl::StrJoin(
      {std::string(RowFormatName(impl_->report.format)), f.messages, f.tools, f.prompt,
       f.completion, f.text, f.chosen, f.rejected, o.prompt_template, o.completion_template,
       std::to_string(static_cast<int>(o.on_bad_row)), std::to_string(o.max_rows)},
      "\n"));
  return ToHex(sha.Finish());
}

absl::Status Dataset::WriteSkippedRows(const std::string& path, absl::Span<const int64_t> refused,
                                       absl::Span<const RowProblem> why) const {
  if (impl_->bad.empty() && refused.empty()) return absl::OkStatus();
  std::string rows, reasons;
  for (const IndexedRow& row : impl_->bad) absl::StrAppend(&rows, impl_->BytesOf(row), "\n");
  for (const int64_t row : refused) absl::StrAppend(&rows, RawRow(row), "\n");
  for (const absl::Span<const RowProblem> problems :
       {absl::MakeConstSpan(impl_->report.problems), why}) {
    for (const RowProblem& problem : problems) {
      absl::StrAppend(&reasons, problem.ToJson().Dump(), "\n");
    }
  }
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, rows));
  return WriteFileAtomically(path + ".why.jsonl", reasons);
}

}  // namespace graft::data
