#include "fileservice/transfer/wire.h"

#include <utility>

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

}  // namespace graft::fileservice::wire
