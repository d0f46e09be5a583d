#include "client/cli/csv.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "rpc/nearest_name.h"

namespace graft::cli {
namespace {

class Reader {
 public:
  Reader(absl::string_view text, absl::string_view file_name) : rest_(text), file_(file_name) {
    absl::ConsumePrefix(&rest_, "\xef\xbb\xbf");  // spreadsheets begin with a byte order mark
  }

  bool AtEnd() const { return rest_.empty(); }
  int line() const { return line_; }
  absl::Status Bad(int line, absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ":", line, ": ", what));
  }

  absl::StatusOr<std::vector<std::string>> Row() {
    std::vector<std::string> fields;
    for (;;) {
      GRAFT_ASSIGN_OR_RETURN(std::string field, Field());
      fields.push_back(std::move(field));
      if (!absl::ConsumePrefix(&rest_, ",")) break;
    }
    absl::ConsumePrefix(&rest_, "\r");
    if (!rest_.empty() && !absl::ConsumePrefix(&rest_, "\n")) {
      return Bad(line_, "text after a closing quote");
    }
    ++line_;
    return fields;
  }

 private:
  absl::StatusOr<std::string> Field() {
    if (!absl::ConsumePrefix(&rest_, "\"")) {
      const absl::string_view plain = rest_.substr(0, rest_.find_first_of(",\r\n"));
      rest_.remove_prefix(plain.size());
      return std::string(absl::StripAsciiWhitespace(plain));
    }
    const int opened = line_;
    std::string field;
    for (;;) {
      const size_t quote = rest_.find('"');
      if (quote == absl::string_view::npos) return Bad(opened, "a quote that is not closed");
      absl::StrAppend(&field, rest_.substr(0, quote));
      rest_.remove_prefix(quote + 1);
      if (!absl::ConsumePrefix(&rest_, "\"")) break;
      field.push_back('"');
    }
    line_ += static_cast<int>(std::count(field.begin(), field.end(), '\n'));
    return field;
  }

  absl::string_view rest_;
  const absl::string_view file_;
  int line_ = 1;
};

}  // namespace

absl::StatusOr<std::vector<CsvRow>> ParseCsv(absl::string_view text, absl::string_view file_name,
                                             const std::vector<std::string>& known) {
  Reader reader(text, file_name);
  std::vector<std::string> columns;
  std::vector<CsvRow> rows;
  while (!reader.AtEnd()) {
    const int line = reader.line();
    GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> fields, reader.Row());
    if (fields.size() == 1 && fields[0].empty()) continue;
    if (columns.empty()) {
      for (const std::string& column : fields) {
        if (std::find(known.begin(), known.end(), column) != known.end()) continue;
        return reader.Bad(
            line, absl::StrCat("unknown column \"", column, "\"", rpc::DidYouMean(column, known)));
      }
      columns = fields;
      continue;
    }
    if (fields.size() != columns.size()) {
      return reader.Bad(
          line, absl::StrCat(fields.size(), " fields, where the first row names ", columns.size()));
    }
    CsvRow row{line, {}};
    for (size_t i = 0; i < columns.size(); ++i) row.fields[columns[i]] = fields[i];
    rows.push_back(std::move(row));
  }
  if (columns.empty()) {
    return reader.Bad(
        1, absl::StrCat("empty; the first row names the columns, of ", absl::StrJoin(known, ", ")));
  }
  return rows;
}

}  // namespace graft::cli
