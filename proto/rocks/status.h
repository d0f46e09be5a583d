// rocksdb::Status as absl's. Nothing above proto/rocks sees RocksDB's.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace rocksdb {
class Status;
}  // namespace rocksdb

namespace graft::rocks {

// `what` stands before RocksDB's own words. Corruption is DATA_LOSS, a lack of space
// RESOURCE_EXHAUSTED, a held lock UNAVAILABLE.
absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what);

}  // namespace graft::rocks
