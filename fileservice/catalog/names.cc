#include "fileservice/catalog/names.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

struct Range {
  uint32_t first;
  uint32_t last;
};

// Characters that a person cannot see, or that turn what stands behind them around.
constexpr Range kInvisible[] = {{0x00, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},
                                {0x61c, 0x61c},   {0x180e, 0x180e}, {0x200b, 0x200f},
                                {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfe00, 0xfe0f},
                                {0xfeff, 0xfeff}, {0xfff0, 0xffff}, {0xe0000, 0xe0fff}};
// Marks that, behind a letter, spell what has a character of its own (NFD), and Hangul's parts.
constexpr Range kDecomposed[] = {{0x300, 0x36f}, {0x1100, 0x11ff}, {0x3099, 0x309a}};
// Upper-case letters and how far their lower-case ones are.
struct Folding {
  Range upper;
  uint32_t distance;
  bool every_second;
};
constexpr Folding kFoldings[] = {
    {{'A', 'Z'}, 32, false},     {{0xc0, 0xd6}, 32, false},   {{0xd8, 0xde}, 32, false},
    {{0x100, 0x137}, 1, true},   {{0x14a, 0x177}, 1, true},   {{0x391, 0x3ab}, 32, false},
    {{0x400, 0x40f}, 80, false}, {{0x410, 0x42f}, 32, false}, {{0x460, 0x481}, 1, true},
    {{0x531, 0x556}, 48, false}, {{0x1e00, 0x1e95}, 1, true}, {{0xff21, 0xff3a}, 32, false}};

constexpr absl::string_view kDevices[] = {
    "con",  "prn",  "aux",  "nul",  "com1", "com2", "com3", "com4", "com5", "com6", "com7",
    "com8", "com9", "lpt1", "lpt2", "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9"};

template <size_t N>
bool IsIn(uint32_t rune, const Range (&ranges)[N]) {
  return std::any_of(std::begin(ranges), std::end(ranges), [rune](const Range& range) {
    return rune >= range.first && rune <= range.last;
  });
}

// The next character of `text`, which it is taken from; false for what is not shortest-form UTF-8.
bool TakeRune(absl::string_view& text, uint32_t& rune) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  const size_t size = lead < 0x80 ? 1 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  static constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4 || text.size() < size) return false;
  rune = size == 1 ? lead : lead & (0xff >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if ((byte & 0xc0) != 0x80) return false;
    rune = (rune << 6) | (byte & 0x3f);
  }
  text.remove_prefix(size);
  return rune >= kLeast[size] && rune <= 0x10ffff && !(rune >= 0xd800 && rune <= 0xdfff);
}

void AppendRune(uint32_t rune, std::string& out) {
  if (rune < 0x80) {
    out.push_back(static_cast<char>(rune));
  } else if (rune < 0x800) {
    out.push_back(static_cast<char>(0xc0 | (rune >> 6)));
    out.push_back(static_cast<char>(0x80 | (rune & 0x3f)));
  } else if (rune < 0x10000) {
    out.push_back(static_cast<char>(0xe0 | (rune >> 12)));
    out.push_back(static_cast<char>(0x80 | ((rune >> 6) & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (rune & 0x3f)));
  } else {
    out.push_back(static_cast<char>(0xf0 | (rune >> 18)));
    out.push_back(static_cast<char>(0x80 | ((rune >> 12) & 0x3f)));
    out.push_back(static_cast<char>(0x80 | ((rune >> 6) & 0x3f)));
    out.push_back(static_cast<char>(0x80 | (rune & 0x3f)));
  }
}

uint32_t Fold(uint32_t rune) {
  for (const Folding& folding : kFoldings) {
    if (rune < folding.upper.first || rune > folding.upper.last) continue;
    if (folding.every_second && (rune - folding.upper.first) % 2 != 0) return rune;
    return rune + folding.distance;
  }
  return rune;
}

absl::Status PathError(absl::string_view path, absl::string_view why) {
  const std::string shown = absl::CHexEscape(path.substr(0, 200));
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("the path \"", shown, "\" cannot be in a fileset: ", why))
      .Reason("PATH_INVALID")
      .Metadata("path", shown)
      .Build();
}

// Empty when the part is fine.
absl::string_view WhyNot(absl::string_view part) {
  if (part.empty()) return "it has an empty part";
  if (part == "." || part == "..") return "it has a part . or ..";
  if (part.size() > kMaxPathSegmentBytes) return "a part has more than 255 bytes";
  if (part.back() == '.' || part.back() == ' ') return "a part ends with a dot or a space";
  const std::string folded = absl::AsciiStrToLower(part);
  if (folded == ".git") return "it has a part .git";
  const absl::string_view stem = absl::string_view(folded).substr(0, folded.find('.'));
  if (std::find(std::begin(kDevices), std::end(kDevices), stem) != std::end(kDevices)) {
    return "a part is the name of a device on Windows";
  }
  return "";
}

absl::Status NameError(absl::string_view name, absl::string_view wanted) {
  const std::string shown = absl::CHexEscape(name.substr(0, 200));
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("\"", shown, "\" is not a name like ", wanted))
      .Reason("NAME_INVALID")
      .Metadata("name", shown)
      .Build();
}

}  // namespace

absl::Status CheckPath(absl::string_view path) {
  if (path.empty()) return PathError(path, "it is empty");
  if (path.size() > kMaxPathBytes) return PathError(path, "it has more than 1024 bytes");
  if (path[0] == '/') return PathError(path, "it is absolute");
  absl::string_view rest = path;
  uint32_t before = 0;
  while (!rest.empty()) {
    uint32_t rune = 0;
    if (!TakeRune(rest, rune)) return PathError(path, "it is not UTF-8");
    if (rune == '\\' || rune == ':') return PathError(path, "it has a backslash or a colon");
    if (IsIn(rune, kInvisible)) return PathError(path, "it has a character that cannot be seen");
    if (IsIn(rune, kDecomposed) && before != 0 && before != '/') {
      return PathError(path, "it has a decomposed letter; write it in NFC");
    }
    before = rune;
  }
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    const absl::string_view why = WhyNot(part);
    if (!why.empty()) return PathError(path, why);
  }
  return absl::OkStatus();
}

std::string FoldCase(absl::string_view path) {
  std::string out;
  out.reserve(path.size());
  while (!path.empty()) {
    uint32_t rune = 0;
    if (!TakeRune(path, rune)) break;
    AppendRune(Fold(rune), out);
  }
  return out;
}

absl::Status CheckId(absl::string_view id, absl::string_view what) {
  const auto allowed = [](char c) {
    return absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-' || c == '_' || c == '.';
  };
  if (id.size() < 2 || id.size() > 63 || !std::all_of(id.begin(), id.end(), allowed) ||
      !(absl::ascii_islower(id[0]) || absl::ascii_isdigit(id[0]))) {
    return NameError(id, absl::StrCat("the id of a ", what,
                                      ": 2 to 63 of a-z 0-9 - _ ., beginning with a-z or 0-9"));
  }
  return absl::OkStatus();
}

std::string FilesetName::ToString() const {
  return absl::StrCat("workspaces/", workspace, "/filesets/", fileset);
}

absl::StatusOr<FilesetName> ParseFilesetName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 4 || parts[0] != "workspaces" || parts[2] != "filesets") {
    return NameError(name, "workspaces/{workspace}/filesets/{fileset}");
  }
  GRAFT_RETURN_IF_ERROR(CheckId(parts[1], "workspace"));
  GRAFT_RETURN_IF_ERROR(CheckId(parts[3], "fileset"));
  return FilesetName{std::string(parts[1]), std::string(parts[3])};
}

absl::StatusOr<std::string> ParseWorkspaceName(absl::string_view name) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 2 || parts[0] != "workspaces") {
    return NameError(name, "workspaces/{workspace}");
  }
  if (parts[1] == "-") return std::string();
  GRAFT_RETURN_IF_ERROR(CheckId(parts[1], "workspace"));
  return std::string(parts[1]);
}

absl::StatusOr<ChildName> ParseChildName(absl::string_view name, absl::string_view collection) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, '/');
  if (parts.size() != 6 || parts[4] != collection || parts[5].empty()) {
    return NameError(
        name, absl::StrCat("workspaces/{workspace}/filesets/{fileset}/", collection, "/{id}"));
  }
  ChildName result;
  const absl::string_view parent =
      name.substr(0, name.size() - parts[5].size() - parts[4].size() - 2);
  GRAFT_ASSIGN_OR_RETURN(result.fileset, ParseFilesetName(parent));
  result.id = std::string(parts[5]);
  return result;
}

std::string VersionName(const FilesetName& fileset, int64_t number) {
  return absl::StrCat(fileset.ToString(), "/versions/", number);
}

absl::Status CheckRef(absl::string_view ref) {
  GRAFT_RETURN_IF_ERROR(CheckId(ref, "ref"));
  if (ref == "latest" || std::all_of(ref.begin(), ref.end(), absl::ascii_isdigit)) {
    return NameError(ref, "a ref: not a number and not latest");
  }
  return absl::OkStatus();
}

}  // namespace graft::fileservice
