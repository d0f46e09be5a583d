#include "fileservice/transfer/wire.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace graft::fileservice::wire {
namespace {

bool TakeVarint(absl::string_view& in, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(in[0]);
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

// Fields before `data` have at most chunk ids and sizes; more is asked for when they need it.
constexpr size_t kFirstHeadBytes = 16 << 10;

// Where `data` lies in `bytes`, the beginning of a message.
struct DataPlace {
  size_t tag = 0;    // where its tag begins
  size_t begin = 0;  // where its bytes begin
  size_t size = 0;
};
enum class Found { kData, kNoData, kNeedMore, kMalformed };

// The wire type's payload behind its tag; false for one that is not known.
bool SkipSize(uint64_t wire_type, absl::string_view& in, uint64_t& size, bool& cut) {
  size = wire_type == 1 ? 8 : wire_type == 5 ? 4 : 0;
  if (wire_type == 1 || wire_type == 5) return true;
  cut = in.size() < 10;
  uint64_t value = 0;
  if (!TakeVarint(in, value)) return false;
  if (wire_type == 2) size = value;
  return wire_type == 0 || wire_type == 2;
}

// `whole`: nothing follows `bytes`.
Found FindData(absl::string_view bytes, bool whole, DataPlace& place) {
  absl::string_view in = bytes;
  while (!in.empty()) {
    const size_t tag_at = bytes.size() - in.size();
    uint64_t tag = 0;
    bool cut = in.size() < 10;
    uint64_t size = 0;
    if (!TakeVarint(in, tag) || !SkipSize(tag & 7, in, size, cut)) {
      return cut && !whole ? Found::kNeedMore : Found::kMalformed;
    }
    if (tag == (uint64_t{kDataField} << 3 | 2)) {
      place = {tag_at, bytes.size() - in.size(), static_cast<size_t>(size)};
      return Found::kData;
    }
    if (size > in.size()) return whole ? Found::kMalformed : Found::kNeedMore;
    in.remove_prefix(static_cast<size_t>(size));
  }
  return whole ? Found::kNoData : Found::kNeedMore;
}

// Appends the bytes [begin, end) of the parts, as they lie or copied.
template <typename Append>
void ForRange(absl::Span<const absl::string_view> parts, size_t begin, size_t end, Append append) {
  size_t at = 0;
  for (const absl::string_view part : parts) {
    const size_t from = std::max(begin, at);
    const size_t to = std::min(end, at + part.size());
    if (from < to) append(part.substr(from - at, to - from));
    at += part.size();
  }
}

absl::Status Malformed() { return absl::InvalidArgumentError("the message is no protobuf"); }

}  // namespace

void Writer::Raw(uint64_t value) {
  for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out_.push_back(static_cast<char>(value));
}

Writer& Writer::Varint(uint32_t field, uint64_t value) {
  if (value == 0) return *this;
  Raw(uint64_t{field} << 3);
  Raw(value);
  return *this;
}

Writer& Writer::Bytes(uint32_t field, absl::string_view value) {
  if (value.empty()) return *this;
  BytesHead(field, value.size());
  out_.append(value.data(), value.size());
  return *this;
}

Writer& Writer::PackedVarints(uint32_t field, const std::vector<uint32_t>& values) {
  Writer packed;
  for (const uint32_t value : values) packed.Raw(value);
  return Bytes(field, packed.out_);
}

Writer& Writer::BytesHead(uint32_t field, size_t size) {
  Raw((uint64_t{field} << 3) | 2);
  Raw(size);
  return *this;
}

absl::Status Parse(absl::string_view message, const std::function<void(const Field&)>& visit) {
  while (!message.empty()) {
    uint64_t tag = 0;
    if (!TakeVarint(message, tag) || (tag >> 3) == 0 || (tag >> 3) > 0x1fffffff) {
      return Malformed();
    }
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    uint64_t size = 0;
    switch (tag & 7) {
      case 0:
        if (!TakeVarint(message, field.varint)) return Malformed();
        break;
      case 1:
        size = 8;
        break;
      case 2:
        if (!TakeVarint(message, size)) return Malformed();
        break;
      case 5:
        size = 4;
        break;
      default:
        return Malformed();
    }
    if (size > message.size()) return Malformed();
    field.bytes = message.substr(0, static_cast<size_t>(size));
    message.remove_prefix(static_cast<size_t>(size));
    visit(field);
  }
  return absl::OkStatus();
}

absl::Status ParseVarints(const Field& field, std::vector<uint32_t>& out) {
  if (field.bytes.data() == nullptr || field.bytes.empty()) {
    out.push_back(static_cast<uint32_t>(field.varint));
    return absl::OkStatus();
  }
  absl::string_view rest = field.bytes;
  while (!rest.empty()) {
    uint64_t value = 0;
    if (!TakeVarint(rest, value)) return Malformed();
    out.push_back(static_cast<uint32_t>(value));
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitMessage> Split(absl::Span<const absl::string_view> parts) {
  size_t total = 0;
  for (const absl::string_view part : parts) total += part.size();
  SplitMessage message;
  const auto copy = [&message](absl::string_view bytes) {
    message.rest.append(bytes.data(), bytes.size());
  };
  for (size_t head = std::min(total, kFirstHeadBytes);; head = std::min(total, head * 4)) {
    message.rest.clear();
    ForRange(parts, 0, head, copy);
    DataPlace place;
    const Found found = FindData(message.rest, head == total, place);
    if (found == Found::kNeedMore) continue;
    if (found == Found::kMalformed) return Malformed();
    if (found == Found::kNoData) return message;
    if (place.size > total - place.begin) return Malformed();
    message.rest.resize(place.tag);
    message.data_bytes = place.size;
    const size_t end = place.begin + place.size;
    ForRange(parts, place.begin, end,
             [&message](absl::string_view bytes) { message.data.push_back(bytes); });
    ForRange(parts, end, total, copy);
    return message;
  }
}

absl::string_view DataCursor::Take(size_t size, std::string& scratch) {
  while (part_ < data_.size() && at_ == data_[part_].size()) {
    ++part_;
    at_ = 0;
  }
  if (size == 0) return absl::string_view();
  GRAFT_CHECK(part_ < data_.size());
  if (data_[part_].size() - at_ >= size) {
    const absl::string_view run = data_[part_].substr(at_, size);
    at_ += size;
    return run;
  }
  scratch.clear();
  while (scratch.size() < size) {
    GRAFT_CHECK(part_ < data_.size());
    const absl::string_view run = data_[part_].substr(at_, size - scratch.size());
    scratch.append(run.data(), run.size());
    at_ += run.size();
    if (at_ < data_[part_].size()) break;
    ++part_;
    at_ = 0;
  }
  return scratch;
}

}  // namespace graft::fileservice::wire
