#include "client/cli/hub.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/hub_client.h"

namespace graft::cli {
namespace {

std::string CacheFolder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache != '\0') return JoinPath(cache, "graft/hub");
  const char* home = std::getenv("HOME");
  return JoinPath(home == nullptr ? "/tmp" : home, ".cache/graft/hub");
}

// The line of one file, drawn anew as it comes.
class FileProgress {
 public:
  FileProgress(const Terminal& terminal, std::string label)
      : terminal_(terminal), label_(std::move(label)), begun_(absl::Now()) {}
  ~FileProgress() {
    if (terminal_.is_terminal) fprintf(stderr, "\r\x1b[K");
  }
  void Show(int64_t done, int64_t total) {
    if (!terminal_.is_terminal || absl::Now() - drawn_ < absl::Milliseconds(100)) return;
    drawn_ = absl::Now();
    if (first_ < 0) first_ = done;
    const double rate =
        static_cast<double>(done - first_) / std::max(0.1, absl::ToDoubleSeconds(drawn_ - begun_));
    std::string detail =
        absl::StrCat(FormatBytes(done), "  ", FormatBytes(static_cast<int64_t>(rate)), "/s");
    if (rate > 0 && total > done) {
      absl::StrAppend(&detail, "  ",
                      HumanDuration(absl::Seconds(static_cast<double>(total - done) / rate)),
                      " left");
    }
    fprintf(stderr, "\r\x1b[K%s",
            RenderProgress(terminal_, {.label = label_,
                                       .done = static_cast<double>(done),
                                       .total = static_cast<double>(total),
                                       .detail = detail})
                .c_str());
  }

 private:
  const Terminal& terminal_;
  const std::string label_;
  const absl::Time begun_;
  absl::Time drawn_ = absl::InfinitePast();
  int64_t first_ = -1;
};

}  // namespace

absl::StatusOr<std::string> FetchFromHub(const Invocation& invocation, absl::string_view address,
                                         const std::function<bool(absl::string_view)>& skip) {
  GRAFT_ASSIGN_OR_RETURN(const HubAddress parsed, ParseHubAddress(address));
  const HubClient hub(HubClient::FromEnvironment());
  absl::StatusOr<HubModel> described = hub.Describe(parsed);
  if (absl::IsUnavailable(described.status())) {
    return WithHint(
        described.status(),
        "GRAFT_HUB names another hub; a folder that was fetched elsewhere does as well: "
        "--from FOLDER");
  }
  GRAFT_RETURN_IF_ERROR(described.status());
  HubModel model = *std::move(described);
  const bool safetensors =
      std::any_of(model.files.begin(), model.files.end(),
                  [](const std::string& file) { return absl::EndsWith(file, ".safetensors"); });
  std::erase_if(model.files, [&](const std::string& file) {
    return skip(file) || (safetensors && absl::EndsWith(file, ".gguf"));
  });
  const std::string folder =
      JoinPath(CacheFolder(),
               absl::StrCat(absl::StrReplaceAll(model.model, {{"/", "--"}}), "/", model.revision));
  for (const std::string& file : model.files) {
    FileProgress progress(invocation.err, file);
    GRAFT_RETURN_IF_ERROR(
        hub.Fetch(model, file, JoinPath(folder, file),
                  [&progress](int64_t done, int64_t total) { progress.Show(done, total); }));
  }
  invocation.Say(absl::StrCat("downloaded: ", model.files.size(), " files of ", model.model, " at ",
                              model.revision));
  return folder;
}

}  // namespace graft::cli
