#include "fileservice/service/settings.h"

#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "rpc/nearest_name.h"

namespace graft::fileservice {
namespace {

struct Key {
  const char* name;
  absl::string_view type;
  std::function<bool(const Json&, Settings&)> set;  // false: another type
};

Key String(const char* name, std::string Settings::*field) {
  return {name, "a string", [field](const Json& value, Settings& settings) {
            if (!value.is_string()) return false;
            settings.*field = value.as_string();
            return true;
          }};
}

Key Integer(const char* name, int64_t Settings::*field) {
  return {name, "a whole number, not negative", [field](const Json& value, Settings& settings) {
            if (!value.is_int() || value.as_int() < 0) return false;
            settings.*field = value.as_int();
            return true;
          }};
}

Key Bool(const char* name, bool Settings::*field) {
  return {name, "true or false", [field](const Json& value, Settings& settings) {
            if (!value.is_bool()) return false;
            settings.*field = value.as_bool();
            return true;
          }};
}

bool SetRoots(const Json& value, Settings& settings) {
  if (!value.is_array()) return false;
  for (const Json& root : value.as_array()) {
    if (!root.is_string()) return false;
    settings.in_place_roots.push_back(root.as_string());
  }
  return true;
}

bool SetQuotas(const Json& value, Settings& settings) {
  if (!value.is_object()) return false;
  for (const auto& [workspace, bytes] : value.as_object()) {
    if (!bytes.is_int() || bytes.as_int() < 0) return false;
    settings.quota_bytes[workspace] = bytes.as_int();
  }
  return true;
}

const std::vector<Key>& Keys() {
  static const std::vector<Key>& keys = *new std::vector<Key>{
      String("data_dir", &Settings::data_dir),
      String("watermark_dir", &Settings::watermark_dir),
      String("address", &Settings::address),
      String("metrics_address", &Settings::metrics_address),
      String("http_address", &Settings::http_address),
      Bool("http_allow_remote", &Settings::http_allow_remote),
      String("http_base_url", &Settings::http_base_url),
      Integer("http_max_connections", &Settings::http_max_connections),
      Bool("insecure", &Settings::insecure),
      Bool("no_auth", &Settings::no_auth),
      String("tls_certificate_file", &Settings::tls_certificate_file),
      String("tls_key_file", &Settings::tls_key_file),
      String("client_ca_file", &Settings::client_ca_file),
      String("scheduler_name", &Settings::scheduler_name),
      String("scheduler_address", &Settings::scheduler_address),
      String("scheduler_ca_file", &Settings::scheduler_ca_file),
      Integer("default_quota_bytes", &Settings::default_quota_bytes),
      {"quota_bytes", "an object of workspaces and bytes", SetQuotas},
      Integer("reserve_bytes", &Settings::reserve_bytes),
      Integer("max_inflight_bytes", &Settings::max_inflight_bytes),
      Bool("fan_out", &Settings::fan_out),
      Integer("chunk_cache_bytes", &Settings::chunk_cache_bytes),
      Integer("pack_bytes", &Settings::pack_bytes),
      Integer("stall_timeout_s", &Settings::stall_timeout_s),
      Integer("session_ttl_s", &Settings::session_ttl_s),
      Integer("gc_interval_s", &Settings::gc_interval_s),
      Integer("gc_grace_s", &Settings::gc_grace_s),
      Integer("gc_trash_s", &Settings::gc_trash_s),
      Integer("gc_max_percent", &Settings::gc_max_percent),
      Integer("versions_per_keyframe", &Settings::versions_per_keyframe),
      Integer("scrub_bytes_per_s", &Settings::scrub_bytes_per_s),
      Integer("scrub_cycle_s", &Settings::scrub_cycle_s),
      {"in_place_roots", "a list of folders", SetRoots},
  };
  return keys;
}

constexpr int64_t kMaxSettingsBytes = 1 << 20;

}  // namespace

absl::StatusOr<Settings> ParseSettings(absl::string_view text, absl::string_view source) {
  const absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok() || !json->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, " is not a JSON object: ", json.status().message()));
  }
  Settings settings;
  std::vector<std::string> names;
  for (const Key& key : Keys()) names.emplace_back(key.name);
  for (const auto& [name, value] : json->as_object()) {
    const Key* found = nullptr;
    for (const Key& key : Keys()) {
      if (name == key.name) found = &key;
    }
    if (found == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": there is no setting \"", name, "\"",
                                                     rpc::DidYouMean(name, names)));
    }
    if (!found->set(value, settings)) {
      return absl::InvalidArgumentError(absl::StrCat(source, ": ", name, " must be ", found->type));
    }
  }
  return settings;
}

absl::StatusOr<Settings> ReadSettings(const std::string& path) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxSettingsBytes));
  return ParseSettings(text, path);
}

}  // namespace graft::fileservice
