// Models from a hub over HTTPS: a list of files, and each file with a download that goes on where
// it was cut.
//
//   HubClient hub({.endpoint = "https://hub.example", .token = ""});
//   GRAFT_ASSIGN_OR_RETURN(HubModel model, hub.Describe("org/name", "main"));
//   GRAFT_RETURN_IF_ERROR(hub.Fetch(model, "config.json", folder + "/config.json", on_progress));
//
// The hub's address is GRAFT_HUB or HF_ENDPOINT where they are set; the token HF_TOKEN. Both as
// other programs of the field know them. Only file names are taken from the hub: cleaned, never
// absolute, never "..".
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::cli {

// "hf://ORG/NAME" or "hf://ORG/NAME@REVISION".
struct HubAddress {
  std::string model;
  std::string revision = "main";
};
bool IsHubAddress(absl::string_view text);
absl::StatusOr<HubAddress> ParseHubAddress(absl::string_view text);

struct HubModel {
  std::string model;
  std::string revision;  // the commit, so that all files are of one state
  std::vector<std::string> files;
};

class HubClient {
 public:
  struct Options {
    std::string endpoint;
    std::string token;  // empty: none
  };
  // What the environment says.
  static Options FromEnvironment();
  explicit HubClient(Options options) : options_(std::move(options)) {}

  // NOT_FOUND, PERMISSION_DENIED with what to do about a gated model, UNAVAILABLE without network.
  absl::StatusOr<HubModel> Describe(const HubAddress& address) const;
  // Writes the file to `path`; what is there already (`path`.part, of an earlier try) is gone on
  // with. `on_progress` gets the bytes that are there and those of the whole file, 0 while unknown.
  absl::Status Fetch(const HubModel& model, const std::string& file, const std::string& path,
                     const std::function<void(int64_t, int64_t)>& on_progress) const;

 private:
  const Options options_;
};

}  // namespace graft::cli
