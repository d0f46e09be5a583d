#include "tests/tidy/include_rules.h"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::tidy {
namespace {

constexpr const char* kRoots[] = {"proto", "scheduler", "worker", "fileservice", "client", "tests"};

struct Include {
  int line;
  std::string header;  // as it stands between the quotes or brackets
  bool system;
};

std::vector<Include> IncludesOf(absl::string_view content) {
  std::vector<Include> includes;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(content, '\n')) {
    ++number;
    line = absl::StripLeadingAsciiWhitespace(line);
    if (!absl::ConsumePrefix(&line, "#")) continue;
    line = absl::StripLeadingAsciiWhitespace(line);
    if (!absl::ConsumePrefix(&line, "include")) continue;
    line = absl::StripLeadingAsciiWhitespace(line);
    if (line.size() < 2 || (line[0] != '"' && line[0] != '<')) continue;
    const size_t end = line.find(line[0] == '"' ? '"' : '>', 1);
    if (end == absl::string_view::npos) continue;
    includes.push_back({number, std::string(line.substr(1, end - 1)), line[0] == '<'});
  }
  return includes;
}

bool IsBelow(absl::string_view path, absl::string_view folder) {
  return path == folder || absl::StartsWith(path, absl::StrCat(folder, "/"));
}

bool IsTest(absl::string_view path) {
  return IsBelow(path, "tests") || absl::EndsWith(path, "_test.cc") ||
         absl::EndsWith(path, "_fuzz.cc") || absl::EndsWith(path, "_bench.cc");
}

// The longest folder of the table that `path` is in, or "".
std::string LayerOf(absl::string_view path, const Layers& layers) {
  std::string best;
  for (const auto& [folder, allowed] : layers.allowed) {
    if (IsBelow(path, folder) && folder.size() > best.size()) best = folder;
  }
  return best;
}

// Where an include in quotes stands in the tree: both the root and proto/ are include roots.
std::string Resolve(absl::string_view header, const Tree& tree) {
  if (tree.contains(std::string(header))) return std::string(header);
  const std::string below_proto = absl::StrCat("proto/", header);
  if (tree.contains(below_proto)) return below_proto;
  // Generated headers stand beside their .proto files.
  if (absl::StartsWith(header, "graft/")) return below_proto;
  for (const char* root : kRoots) {
    if (IsBelow(header, root)) return std::string(header);
  }
  return "";
}

void CheckPackage(const std::string& where, absl::string_view path, const Include& include,
                  const std::string& layer, const Layers& layers,
                  std::vector<std::string>& problems) {
  for (const auto& [prefix, why] : layers.forbidden) {
    if (absl::StartsWith(include.header, prefix)) {
      problems.push_back(absl::StrCat(where, ": ", include.header, " is forbidden: ", why));
    }
  }
  if (IsTest(path)) return;
  for (const auto& [mark, prefixes] : layers.restricted) {
    const bool needs_mark = std::any_of(
        prefixes.begin(), prefixes.end(),
        [&include](const std::string& prefix) { return absl::StartsWith(include.header, prefix); });
    const auto marks = layers.marks.find(layer);
    if (needs_mark && (marks == layers.marks.end() || !marks->second.contains(mark))) {
      problems.push_back(
          absl::StrCat(where, ": ", layer, " may not see ", mark, " (", include.header, ")"));
    }
  }
}

void CheckPure(const std::string& where, const Include& include, const std::string& layer,
               const Layers& layers, std::vector<std::string>& problems) {
  const auto pure = layers.pure.find(layer);
  if (pure == layers.pure.end()) return;
  const std::string written =
      include.system ? absl::StrCat("<", include.header, ">") : include.header;
  if (std::find(pure->second.begin(), pure->second.end(), written) != pure->second.end()) {
    problems.push_back(absl::StrCat(where, ": ", layer, " is pure and may not include ", written));
  }
}

void CheckLayer(const std::string& where, absl::string_view path, const std::string& target,
                const std::string& layer, const Layers& layers,
                std::vector<std::string>& problems) {
  if (IsTest(path)) return;
  if (IsBelow(target, "tests")) {
    problems.push_back(absl::StrCat(where, ": nothing but a test may include ", target));
    return;
  }
  if (IsBelow(target, layer)) return;
  const std::vector<std::string>& allowed = layers.allowed.at(layer);
  for (const std::string& folder : allowed) {
    if (IsBelow(target, folder)) return;
  }
  problems.push_back(absl::StrCat(where, ": ", layer, " may not include ", target,
                                  " (it may include: ", absl::StrJoin(allowed, ", "), ")"));
}

// Depth-first search for the first cycle through each file.
class CycleSearch {
 public:
  explicit CycleSearch(const absl::btree_map<std::string, std::vector<std::string>>& edges)
      : edges_(edges) {}

  std::vector<std::string> Run() {
    for (const auto& [node, targets] : edges_) Visit(node);
    return std::move(problems_);
  }

 private:
  void Visit(const std::string& node) {
    if (done_.contains(node)) return;
    const auto open = std::find(path_.begin(), path_.end(), node);
    if (open != path_.end()) {
      problems_.push_back(
          absl::StrCat("cycle: ", absl::StrJoin(open, path_.end(), " -> "), " -> ", node));
      return;
    }
    path_.push_back(node);
    if (const auto it = edges_.find(node); it != edges_.end()) {
      for (const std::string& target : it->second) Visit(target);
    }
    path_.pop_back();
    done_.insert(node);
  }

  const absl::btree_map<std::string, std::vector<std::string>>& edges_;
  absl::btree_set<std::string> done_;
  std::vector<std::string> path_;
  std::vector<std::string> problems_;
};

}  // namespace

absl::StatusOr<Layers> Layers::Parse(absl::string_view text) {
  Layers layers;
  std::string section;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    if (line[0] == '[') {
      section = std::string(line);
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> halves =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (line.find(':') == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("layers.txt, line ", number, ": no colon"));
    }
    const std::string name(halves.first);
    const std::vector<std::string> words = absl::StrSplit(halves.second, ' ', absl::SkipEmpty());
    if (section.empty()) {
      std::vector<std::string>& allowed = layers.allowed[name];
      for (const std::string& word : words) {
        if (word[0] == '<') {
          layers.marks[name].insert(word.substr(1));
        } else {
          allowed.push_back(word);
        }
      }
    } else if (section == "[restricted]") {
      layers.restricted[name] = words;
    } else if (section == "[doors]") {
      layers.marks[name].insert(words.begin(), words.end());
    } else if (section == "[forbidden]") {
      layers.forbidden[name] = std::string(absl::StripAsciiWhitespace(halves.second));
    } else if (section == "[pure]") {
      layers.pure[name] = words;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("layers.txt, line ", number, ": unknown section ", section));
    }
  }
  return layers;
}

absl::StatusOr<Tree> ReadTree(const std::string& root) {
  Tree tree;
  for (const char* folder : kRoots) {
    const std::filesystem::path start = std::filesystem::path(root) / folder;
    if (!std::filesystem::exists(start)) continue;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(start)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu") continue;
      GRAFT_ASSIGN_OR_RETURN(std::string content, ReadFile(entry.path()));
      tree.emplace(std::filesystem::relative(entry.path(), root).string(), std::move(content));
    }
  }
  return tree;
}

std::vector<std::string> CheckIncludes(const Tree& tree, const Layers& layers) {
  std::vector<std::string> problems;
  absl::btree_map<std::string, std::vector<std::string>> edges;
  for (const auto& [path, content] : tree) {
    const std::string layer = LayerOf(path, layers);
    if (layer.empty() && !IsTest(path)) {
      problems.push_back(absl::StrCat(path, ": its folder has no line in layers.txt"));
      continue;
    }
    for (const Include& include : IncludesOf(content)) {
      const std::string where = absl::StrCat(path, ":", include.line);
      CheckPure(where, include, layer, layers, problems);
      const std::string target = Resolve(include.header, tree);
      if (include.system || target.empty()) {
        CheckPackage(where, path, include, layer, layers, problems);
        continue;
      }
      CheckLayer(where, path, target, layer, layers, problems);
      edges[path].push_back(target);
    }
  }
  const std::vector<std::string> cycles = CycleSearch(edges).Run();
  problems.insert(problems.end(), cycles.begin(), cycles.end());
  return problems;
}

}  // namespace graft::tidy
