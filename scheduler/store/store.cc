#include "scheduler/store/store.h"

#include "base/status_macros.h"

namespace graft::scheduler {

absl::Status ForEachRecord(const Store& store, ListRequest list,
                           const std::function<absl::Status(Record&, int64_t)>& each) {
  for (bool more = true; more;) {
    GRAFT_ASSIGN_OR_RETURN(ListResult page, store.List(list));
    if (!page.records.empty()) list.after = page.records.back().key;
    for (Record& record : page.records) GRAFT_RETURN_IF_ERROR(each(record, page.revision));
    more = page.more;
  }
  return absl::OkStatus();
}

std::string AfterPrefix(absl::string_view prefix) {
  std::string after(prefix);
  while (!after.empty()) {
    if (static_cast<unsigned char>(after.back()) != 0xff) {
      ++after.back();
      return after;
    }
    after.pop_back();
  }
  return after;
}

std::string BigEndian(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (56 - 8 * i));
  return bytes;
}

uint64_t FromBigEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8 && i < bytes.size(); ++i) {
    value = value << 8 | static_cast<uint8_t>(bytes[i]);
  }
  return value;
}

}  // namespace graft::scheduler
