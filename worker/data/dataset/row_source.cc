#include "worker/data/dataset/row_source.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr absl::string_view kDataEndings[] = {".jsonl", ".ndjson", ".json", ".csv"};

struct Refused {
  absl::string_view ending, name, advice;
};
constexpr Refused kRefused[] = {
    {".parquet", "Parquet",
     "convert it first: python -c \"import pandas as p; "
     "p.read_parquet('FILE').to_json('FILE.jsonl', orient='records', lines=True)\""},
    {".arrow", "Arrow", "write it as .jsonl first"},
    {".gz", "gzip", "unpack it first: gunzip FILE"},
    {".zst", "Zstandard", "unpack it first: unzstd FILE"},
    {".bz2", "bzip2", "unpack it first: bunzip2 FILE"},
    {".xz", "xz", "unpack it first: unxz FILE"},
    {".zip", "zip", "unpack it first: unzip FILE"},
    {".tar", "tar", "unpack it first: tar xf FILE"},
    {".xlsx", "Excel", "save it as CSV (UTF-8) first"},
    {".tsv", "tab-separated", "write it as .csv or .jsonl first"},
};

bool IsBlank(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
}

int64_t CountLines(absl::string_view text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

absl::string_view WithoutBom(absl::string_view bytes) {
  return absl::StartsWith(bytes, "\xEF\xBB\xBF") ? bytes.substr(3) : bytes;
}

absl::optional<std::string> FromWindows1252(absl::string_view bytes) {
  // 0x80 to 0x9F; all others are the code points of Latin-1. 0: no character.
  constexpr uint16_t kUpper[32] = {0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
                                   0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017d, 0,
                                   0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
                                   0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178};
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 8);
  for (const char c : bytes) {
    const auto byte = static_cast<uint8_t>(c);
    const uint32_t code_point = byte >= 0x80 && byte < 0xa0 ? kUpper[byte - 0x80] : byte;
    if (code_point == 0 && byte != 0) return absl::nullopt;
    AppendCodePoint(code_point, text);
  }
  return text;
}

bool IsDataFile(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  return std::any_of(std::begin(kDataEndings), std::end(kDataEndings),
                     [&](absl::string_view ending) { return absl::EndsWith(lower, ending); });
}

absl::StatusOr<SourceKind> KindOfSource(const std::string& path, absl::string_view bytes) {
  const std::string lower = absl::AsciiStrToLower(path);
  for (const Refused& refused : kRefused) {
    if (!absl::EndsWith(lower, refused.ending) &&
        !(refused.name == "Parquet" && absl::StartsWith(bytes, "PAR1"))) {
      continue;
    }
    return absl::UnimplementedError(
        absl::StrCat(path, ": ", refused.name, " files are not read; ", refused.advice));
  }
  if (absl::StartsWith(bytes, "\xFF\xFE") || absl::StartsWith(bytes, "\xFE\xFF")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": the file is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"));
  }
  if (absl::EndsWith(lower, ".csv")) return SourceKind::kCsv;
  if (!IsDataFile(lower)) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": expected a .jsonl, .ndjson, .json or .csv file"));
  }
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(WithoutBom(bytes));
  return absl::StartsWith(text, "[") ? SourceKind::kArray : SourceKind::kLines;
}

void ForEachLine(absl::string_view bytes, int64_t first_line,
                 const std::function<void(const SourceRow&)>& row) {
  int64_t line = first_line;
  for (size_t pos = 0; pos < bytes.size(); ++line) {
    const size_t end = std::min(bytes.find('\n', pos), bytes.size());
    absl::string_view text = bytes.substr(pos, end - pos);
    if (absl::EndsWith(text, "\r")) text.remove_suffix(1);
    if (!IsBlank(text)) row({text, line});
    pos = end + 1;
  }
}

absl::Status ForEachElement(absl::string_view bytes,
                            const std::function<void(const SourceRow&)>& row) {
  size_t pos = bytes.find('[');
  int64_t line = 1 + CountLines(bytes.substr(0, pos));
  ++pos;
  size_t start = pos;
  int64_t depth = 0;
  const auto emit = [&](size_t end) {
    absl::string_view text = bytes.substr(start, end - start);
    const size_t lead = text.size() - absl::StripLeadingAsciiWhitespace(text).size();
    line += CountLines(text.substr(0, lead));
    const int64_t first = line;
    line += CountLines(text.substr(lead));
    text = absl::StripAsciiWhitespace(text);
    if (!text.empty()) row({text, first});
    start = end + 1;
  };
  for (; pos < bytes.size(); ++pos) {
    const char c = bytes[pos];
    if (c == '"') {
      for (++pos; pos < bytes.size() && bytes[pos] != '"'; ++pos) pos += bytes[pos] == '\\';
    } else if (c == '{' || c == '[') {
      ++depth;
    } else if (c == ']' && depth == 0) {
      emit(pos);
      const absl::string_view rest = bytes.substr(pos + 1);
      if (IsBlank(rest)) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line, ": text behind the end of the array"));
    } else if (c == '}' || c == ']') {
      if (--depth < 0) {
        return absl::InvalidArgumentError(absl::StrCat("line ", line, ": unexpected '}'"));
      }
    } else if (c == ',' && depth == 0) {
      emit(pos);
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ": the array is not closed"));
}

namespace {

// The end of the record that begins at `pos` (its line break excluded); npos for an open quote.
size_t RecordEnd(absl::string_view bytes, size_t pos) {
  bool quoted = false;
  for (; pos < bytes.size(); ++pos) {
    if (bytes[pos] == '"') quoted = !quoted;
    if (bytes[pos] == '\n' && !quoted) return pos;
  }
  return quoted ? absl::string_view::npos : pos;
}

std::vector<std::string> Fields(absl::string_view record) {
  std::vector<std::string> fields;
  size_t pos = 0;
  while (true) {
    std::string field;
    if (pos < record.size() && record[pos] == '"') {
      for (++pos; pos < record.size(); ++pos) {
        if (record[pos] == '"') {
          if (pos + 1 >= record.size() || record[pos + 1] != '"') break;
          ++pos;
        }
        field += record[pos];
      }
      ++pos;  // the closing quote
    }
    const size_t comma = std::min(record.find(',', std::min(pos, record.size())), record.size());
    if (pos < comma) field += std::string(record.substr(pos, comma - pos));
    fields.push_back(std::move(field));
    if (comma >= record.size()) return fields;
    pos = comma + 1;
  }
}

}  // namespace

absl::Status ForEachRecord(absl::string_view bytes, std::vector<std::string>& header,
                           const std::function<void(const SourceRow&)>& row) {
  int64_t line = 1;
  bool have_header = false;
  for (size_t pos = 0; pos < bytes.size();) {
    const size_t end = RecordEnd(bytes, pos);
    if (end == absl::string_view::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", line, ": a quote is opened and never closed"));
    }
    absl::string_view text = bytes.substr(pos, end - pos);
    const int64_t first = line;
    line += CountLines(text) + 1;
    pos = end + 1;
    if (absl::EndsWith(text, "\r")) text.remove_suffix(1);
    if (IsBlank(text)) continue;
    if (have_header) {
      row({text, first});
      continue;
    }
    header = Fields(text);
    have_header = true;
    for (std::string& name : header) name = std::string(absl::StripAsciiWhitespace(name));
  }
  if (!have_header) return absl::InvalidArgumentError("no header line");
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseRecord(absl::string_view record, const std::vector<std::string>& header) {
  std::vector<std::string> fields = Fields(record);
  if (fields.size() != header.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected ", header.size(), " fields as in the header, found ", fields.size()));
  }
  Json::Object object;
  for (size_t i = 0; i < fields.size(); ++i) {
    object.emplace_back(header[i], Json(std::move(fields[i])));
  }
  return Json(std::move(object));
}

}  // namespace graft::data
