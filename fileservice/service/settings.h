// Every setting of graft-fileservice, with its unit and the reason for its default. Read from a
// JSON file, strictly: a key that is not here is refused with the nearest name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::fileservice {

struct Settings {
  // Holds `packs` and `index`. One daemon at a time.
  std::string data_dir;
  // Where it is kept how much was acknowledged, so that an index that lost some of it is noticed;
  // best on another disk. Default: `watermark` in data_dir.
  std::string watermark_dir;
  std::string address = "127.0.0.1:7071";
  // host:port of /metrics and /healthz; empty: none.
  std::string metrics_address;
  // host:port of files over HTTP/1.1 (GET, HEAD, PUT); empty: none. Plaintext: beyond loopback only
  // with http_allow_remote, behind a TLS proxy or inside of a trusted network.
  std::string http_address;
  bool http_allow_remote = false;
  // How clients reach that door, where signed URLs are to say it: behind a proxy. Empty: as bound.
  std::string http_base_url;
  // Each has a thread: what a node's tools open, several times over.
  int64_t http_max_connections = 256;

  // Plaintext, for loopback addresses alone.
  bool insecure = false;
  // With `insecure` alone: callers need no token and may do everything.
  bool no_auth = false;
  std::string tls_certificate_file;
  std::string tls_key_file;
  std::string client_ca_file;
  // Whose certificate is the scheduler's, by name.
  std::string scheduler_name = "graft-scheduler";
  // Where the keys that tokens are checked with are asked for, each minute. The last answer is kept
  // in data_dir, so that the service starts without the scheduler.
  std::string scheduler_address;
  std::string scheduler_ca_file;

  // Bytes of all versions of a workspace together; 0: no limit.
  int64_t default_quota_bytes = 0;
  std::map<std::string, int64_t> quota_bytes;
  // Free space that uploads leave: the index needs some to delete anything.
  int64_t reserve_bytes = int64_t{1} << 30;
  // Of transfers held in memory: what a thousand readers may take together.
  int64_t max_inflight_bytes = int64_t{1} << 30;
  // Of chunks that are sent in parts: a few for each of the transfers that run at a time.
  int64_t chunk_cache_bytes = 128 << 20;
  // Workers that fetch the same version get it from one another, and the origin sends it about
  // once.
  bool fan_out = true;
  // Collection needs whole packs to be old or empty; smaller ones collect sooner, larger ones are
  // fewer files.
  int64_t pack_bytes = 256 << 20;
  // A transfer without a byte for so long ends.
  int64_t stall_timeout_s = 30;
  // An upload may rest over night, not for ever.
  int64_t session_ttl_s = 24 * 3600;

  // Upkeep (retention, re-encoding, collection, scrub, counts), this often; 0: never.
  int64_t gc_interval_s = 3600;
  // A chunk is not taken while its pack is younger: as long as an upload may rest.
  int64_t gc_grace_s = 24 * 3600;
  // Between a chunk's vanishing and the end of its bytes: time to notice a mistake.
  int64_t gc_trash_s = 2 * 3600;
  // A collection that would take more of all bytes at once stops: it is rather a mistake.
  int64_t gc_max_percent = 30;

  // So many old checkpoints are kept as differences to one that stays whole; 0: all stay whole.
  // The differences of a model grow from 27 % to 35 % of its bytes over 6 checkpoints.
  int64_t versions_per_keyframe = 6;

  // What the scrub reads of the disk, so that others have the rest; 0: no scrub.
  int64_t scrub_bytes_per_s = 20 << 20;
  // Each pack is read once in this time, if the rate suffices: 20 MiB/s read 50 TiB in 30 days.
  int64_t scrub_cycle_s = 30 * 24 * 3600;

  // Folders below which RegisterInPlace may register.
  std::vector<std::string> in_place_roots;

  std::string index_dir() const { return data_dir + "/index"; }
  std::string pack_dir() const { return data_dir + "/packs"; }
  std::string watermark() const {
    return watermark_dir.empty() ? data_dir + "/watermark" : watermark_dir;
  }
};

// INVALID_ARGUMENT with the file and the key.
absl::StatusOr<Settings> ReadSettings(const std::string& path);
absl::StatusOr<Settings> ParseSettings(absl::string_view json, absl::string_view source);

}  // namespace graft::fileservice
