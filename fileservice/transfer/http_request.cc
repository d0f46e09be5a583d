#include "fileservice/transfer/http_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

absl::Status Bad(absl::string_view why) { return absl::InvalidArgumentError(why); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c = absl::ascii_tolower(static_cast<unsigned char>(c));
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

absl::StatusOr<std::string> PercentDecode(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 1 < text.size() ? HexDigit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? HexDigit(text[i + 2]) : -1;
      if (high < 0 || low < 0) return Bad("the path has an escape that is none");
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (c == '\0') return Bad("the path has a NUL");
    out.push_back(c);
  }
  return out;
}

bool AllDigits(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

absl::Status ParseTarget(absl::string_view target, HttpRequest& request) {
  if (!absl::StartsWith(target, "/")) return Bad("the target is no path");
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(target, absl::MaxSplits('?', 1));
  GRAFT_ASSIGN_OR_RETURN(request.path, PercentDecode(parts.first));
  for (const absl::string_view pair : absl::StrSplit(parts.second, '&', absl::SkipEmpty())) {
    const std::pair<absl::string_view, absl::string_view> item =
        absl::StrSplit(pair, absl::MaxSplits('=', 1));
    GRAFT_ASSIGN_OR_RETURN(std::string name, PercentDecode(item.first));
    GRAFT_ASSIGN_OR_RETURN(std::string value, PercentDecode(item.second));
    if (!request.query.emplace(std::move(name), std::move(value)).second) {
      return Bad("a query parameter is there twice");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseHeader(absl::string_view line, HttpRequest& request) {
  const size_t colon = line.find(':');
  if (colon == absl::string_view::npos || colon == 0) return Bad("a header has no name");
  const absl::string_view name = line.substr(0, colon);
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_') {
      return Bad("a header's name has a character that cannot be there");
    }
  }
  absl::string_view value = line.substr(colon + 1);
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!value.empty() && blank(value.front())) value.remove_prefix(1);
  while (!value.empty() && blank(value.back())) value.remove_suffix(1);
  for (const char c : value) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c)) && c != '\t') {
      return Bad("a header has a control character");
    }
  }
  if (!request.headers.emplace(absl::AsciiStrToLower(name), std::string(value)).second) {
    return Bad(absl::StrCat("the header ", name, " is there twice"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view HttpRequest::Header(absl::string_view name) const {
  const auto found = headers.find(std::string(name));
  return found == headers.end() ? absl::string_view() : absl::string_view(found->second);
}

absl::StatusOr<HttpRequest> ParseHttpRequest(absl::string_view head) {
  HttpRequest request;
  if (!absl::ConsumeSuffix(&head, "\r\n\r\n")) return Bad("the head has no end");
  std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
  const std::vector<absl::string_view> words = absl::StrSplit(lines[0], ' ');
  if (words.size() != 3 || words[0].empty()) return Bad("the first line is no request");
  if (words[2] != "HTTP/1.1" && words[2] != "HTTP/1.0") return Bad("HTTP/1.1 is spoken here");
  request.method = std::string(words[0]);
  GRAFT_RETURN_IF_ERROR(ParseTarget(words[1], request));
  for (size_t i = 1; i < lines.size(); ++i) GRAFT_RETURN_IF_ERROR(ParseHeader(lines[i], request));
  request.keep_alive = words[2] == "HTTP/1.1"
                           ? !absl::EqualsIgnoreCase(request.Header("connection"), "close")
                           : absl::EqualsIgnoreCase(request.Header("connection"), "keep-alive");
  if (!request.Header("transfer-encoding").empty()) {
    return Bad("a body needs Content-Length: Transfer-Encoding is not taken");
  }
  const absl::string_view length = request.Header("content-length");
  if (!length.empty() &&
      (!AllDigits(length) || !absl::SimpleAtoi(length, &request.content_length))) {
    return Bad("Content-Length is no number");
  }
  return request;
}

absl::StatusOr<std::optional<ByteRange>> ParseRange(absl::string_view header, int64_t size) {
  if (!absl::ConsumePrefix(&header, "bytes=")) return std::optional<ByteRange>();
  const std::vector<absl::string_view> ends = absl::StrSplit(header, '-');
  const bool one = ends.size() == 2 && (ends[0].empty() || AllDigits(ends[0])) &&
                   (ends[1].empty() || AllDigits(ends[1])) && !(ends[0].empty() && ends[1].empty());
  if (!one) return std::optional<ByteRange>();
  const absl::Status unsatisfiable = absl::OutOfRangeError("the range is not in the file");
  int64_t first = 0;
  int64_t last = 0;
  if (ends[0].empty()) {
    if (!absl::SimpleAtoi(ends[1], &last)) last = size;
    if (last == 0 || size == 0) return unsatisfiable;
    const int64_t length = std::min(last, size);
    return std::optional<ByteRange>({size - length, length});
  }
  if (!absl::SimpleAtoi(ends[0], &first) || first >= size) return unsatisfiable;
  if (ends[1].empty() || !absl::SimpleAtoi(ends[1], &last)) last = size - 1;
  if (last < first) return std::optional<ByteRange>();
  return std::optional<ByteRange>({first, std::min(last, size - 1) - first + 1});
}

}  // namespace graft::fileservice
