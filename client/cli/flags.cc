#include "client/cli/flags.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "rpc/nearest_name.h"

namespace graft::cli {
void FlagSet::String(absl::string_view name, std::string* value, absl::string_view metavar,
                     absl::string_view help) {
  flags_.push_back({std::string(name), 0, std::string(metavar), std::string(help),
                    [value](absl::string_view text) {
                      *value = std::string(text);
                      return absl::OkStatus();
                    }});
}

void FlagSet::Strings(absl::string_view name, std::vector<std::string>* values,
                      absl::string_view metavar, absl::string_view help) {
  flags_.push_back({std::string(name), 0, std::string(metavar), std::string(help),
                    [values](absl::string_view text) {
                      values->emplace_back(text);
                      return absl::OkStatus();
                    }});
}

void FlagSet::Int(absl::string_view name, int64_t* value, absl::string_view metavar,
                  absl::string_view help) {
  flags_.push_back({std::string(name), 0, std::string(metavar), std::string(help),
                    [value](absl::string_view text) {
                      if (absl::SimpleAtoi(text, value)) return absl::OkStatus();
                      return absl::InvalidArgumentError("a whole number is expected");
                    }});
}

void FlagSet::Double(absl::string_view name, double* value, absl::string_view metavar,
                     absl::string_view help) {
  flags_.push_back({std::string(name), 0, std::string(metavar), std::string(help),
                    [value](absl::string_view text) {
                      if (absl::SimpleAtod(text, value)) return absl::OkStatus();
                      return absl::InvalidArgumentError("a number is expected");
                    }});
}

void FlagSet::Bool(absl::string_view name, bool* value, absl::string_view help) {
  flags_.push_back({std::string(name), 0, "", std::string(help), [value](absl::string_view text) {
                      *value = text == "true";
                      return absl::OkStatus();
                    }});
}

void FlagSet::Short(char letter) { flags_.back().letter = letter; }

FlagSet::Flag* FlagSet::Find(absl::string_view name) {
  for (Flag& flag : flags_) {
    if (flag.name == name || (name.size() == 1 && flag.letter == name[0])) return &flag;
  }
  return nullptr;
}

bool FlagSet::Given(absl::string_view name) const {
  return std::any_of(flags_.begin(), flags_.end(),
                     [name](const Flag& flag) { return flag.name == name && flag.given; });
}

absl::Status FlagSet::SetFlag(Flag& flag, absl::string_view value) {
  flag.given = true;
  if (absl::Status status = flag.set(value); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", flag.name, "=", value, ": ", status.message()));
  }
  return absl::OkStatus();
}

absl::Status FlagSet::Unknown(absl::string_view written) const {
  const std::string nearest = rpc::NearestName(absl::StripPrefix(written, "--"), Names());
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag ", written, " for `", command_, "`",
                   nearest.empty() ? "" : absl::StrCat("; did you mean --", nearest, "?")));
}

absl::Status FlagSet::Parse(const std::vector<std::string>& args) {
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view arg = args[i];
    if (arg == "--") {
      words_.insert(words_.end(), args.begin() + static_cast<ptrdiff_t>(i) + 1, args.end());
      return absl::OkStatus();
    }
    if (arg.size() < 2 || arg[0] != '-') {
      words_.emplace_back(arg);
      continue;
    }
    const absl::string_view written = arg.substr(0, arg.find('='));
    absl::string_view name = written;
    name.remove_prefix(absl::StartsWith(name, "--") ? 2 : 1);
    Flag* flag = Find(name);
    if (flag == nullptr && absl::ConsumePrefix(&name, "no-")) {
      flag = Find(name);
      if (flag == nullptr || !flag->metavar.empty()) return Unknown(written);
      GRAFT_RETURN_IF_ERROR(SetFlag(*flag, "false"));
      continue;
    }
    if (flag == nullptr) return Unknown(written);
    if (written.size() < arg.size()) {
      const absl::string_view value = arg.substr(written.size() + 1);
      if (flag->metavar.empty() && value != "true" && value != "false") {
        return absl::InvalidArgumentError(absl::StrCat(written, " is true or false"));
      }
      GRAFT_RETURN_IF_ERROR(SetFlag(*flag, value));
    } else if (flag->metavar.empty()) {
      GRAFT_RETURN_IF_ERROR(SetFlag(*flag, "true"));
    } else if (i + 1 < args.size()) {
      GRAFT_RETURN_IF_ERROR(SetFlag(*flag, args[++i]));
    } else {
      return absl::InvalidArgumentError(absl::StrCat(written, " needs a value: ", flag->metavar));
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> FlagSet::Names() const {
  std::vector<std::string> names;
  for (const Flag& flag : flags_) names.push_back(flag.name);
  return names;
}

std::string FlagSet::Help() const {
  std::vector<std::string> left;
  size_t width = 0;
  for (const Flag& flag : flags_) {
    left.push_back(absl::StrCat(
        flag.letter == 0 ? "    " : absl::StrCat("-", std::string(1, flag.letter), ", "), "--",
        flag.name, flag.metavar.empty() ? "" : " ", flag.metavar));
    width = std::max(width, left.back().size());
  }
  std::string out;
  for (size_t i = 0; i < flags_.size(); ++i) {
    absl::StrAppend(&out, "  ", left[i], std::string(width - left[i].size() + 2, ' '),
                    flags_[i].help, "\n");
  }
  return out;
}

}  // namespace graft::cli
