#include "scheduler/store/transaction.h"

#include <utility>

#include "absl/status/status.h"
#include "base/digest.h"
#include "base/status_macros.h"

namespace graft::scheduler {
namespace {

constexpr char kVersion = 1;

void PutNumber(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

void PutBytes(std::string& out, absl::string_view bytes) {
  PutNumber(out, bytes.size());
  out.append(bytes.data(), bytes.size());
}

absl::Status Torn() { return absl::DataLossError("an encoded transaction is cut or damaged"); }

class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }
  absl::StatusOr<uint64_t> Number() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const uint8_t byte = static_cast<uint8_t>(bytes_[0]);
      bytes_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    return Torn();
  }
  absl::StatusOr<std::string> Bytes() {
    GRAFT_ASSIGN_OR_RETURN(const uint64_t size, Number());
    if (size > bytes_.size()) return Torn();
    std::string value(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return value;
  }

 private:
  absl::string_view bytes_;
};

void PutChecksum(std::string& out, uint32_t crc) {
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(crc >> (8 * i)));
}

}  // namespace

std::string EncodeTransaction(const Transaction& transaction) {
  std::string out(1, kVersion);
  PutNumber(out, transaction.compares.size());
  for (const Compare& compare : transaction.compares) {
    PutBytes(out, compare.key);
    PutNumber(out, static_cast<uint64_t>(compare.revision));
  }
  PutNumber(out, transaction.writes.size());
  for (const Write& write : transaction.writes) {
    PutNumber(out, static_cast<uint64_t>(write.family) * 2 + (write.value.has_value() ? 1 : 0));
    PutBytes(out, write.key);
    if (write.value.has_value()) PutBytes(out, *write.value);
  }
  PutChecksum(out, Crc32c(0, out));
  return out;
}

absl::StatusOr<Transaction> DecodeTransaction(absl::string_view bytes) {
  if (bytes.size() < 5 || bytes[0] != kVersion) return Torn();
  const absl::string_view body = bytes.substr(0, bytes.size() - 4);
  std::string checksum;
  PutChecksum(checksum, Crc32c(0, body));
  if (checksum != bytes.substr(bytes.size() - 4)) return Torn();
  Reader reader(body.substr(1));
  Transaction transaction;
  GRAFT_ASSIGN_OR_RETURN(const uint64_t compares, reader.Number());
  for (uint64_t i = 0; i < compares; ++i) {
    Compare compare;
    GRAFT_ASSIGN_OR_RETURN(compare.key, reader.Bytes());
    GRAFT_ASSIGN_OR_RETURN(const uint64_t revision, reader.Number());
    compare.revision = static_cast<int64_t>(revision);
    transaction.compares.push_back(std::move(compare));
  }
  GRAFT_ASSIGN_OR_RETURN(const uint64_t writes, reader.Number());
  for (uint64_t i = 0; i < writes; ++i) {
    GRAFT_ASSIGN_OR_RETURN(const uint64_t head, reader.Number());
    Write write;
    if (head / 2 > static_cast<uint64_t>(Family::kEvents)) return Torn();
    write.family = static_cast<Family>(head / 2);
    GRAFT_ASSIGN_OR_RETURN(write.key, reader.Bytes());
    if (head % 2 == 1) {
      GRAFT_ASSIGN_OR_RETURN(write.value, reader.Bytes());
    }
    transaction.writes.push_back(std::move(write));
  }
  if (!reader.done()) return Torn();
  return transaction;
}

}  // namespace graft::scheduler
