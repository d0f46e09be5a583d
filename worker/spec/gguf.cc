#include "worker/spec/gguf.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace graft::spec {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr int64_t kReadAheadBytes = 1 << 20;
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxTensorDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;

enum ValueType : uint32_t {
  kUint8 = 0,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

struct GgmlType {
  uint32_t id;
  const char* name;
  bool known;
  DType dtype;
};
// The types of the format, so that those that are not read here are refused by name.
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", true, DType::kF32},       {1, "F16", true, DType::kF16},
    {2, "Q4_0", true, DType::kQ4_0},     {3, "Q4_1", true, DType::kQ4_1},
    {6, "Q5_0", true, DType::kQ5_0},     {7, "Q5_1", true, DType::kQ5_1},
    {8, "Q8_0", true, DType::kQ8_0},     {9, "Q8_1", false, DType::kF32},
    {10, "Q2_K", false, DType::kF32},    {11, "Q3_K", false, DType::kF32},
    {12, "Q4_K", true, DType::kQ4_K},    {13, "Q5_K", true, DType::kQ5_K},
    {14, "Q6_K", true, DType::kQ6_K},    {15, "Q8_K", false, DType::kF32},
    {16, "IQ2_XXS", false, DType::kF32}, {17, "IQ2_XS", false, DType::kF32},
    {18, "IQ3_XXS", false, DType::kF32}, {19, "IQ1_S", false, DType::kF32},
    {20, "IQ4_NL", false, DType::kF32},  {21, "IQ3_S", false, DType::kF32},
    {22, "IQ2_S", false, DType::kF32},   {23, "IQ4_XS", false, DType::kF32},
    {24, "I8", true, DType::kI8},        {25, "I16", true, DType::kI16},
    {26, "I32", true, DType::kI32},      {27, "I64", true, DType::kI64},
    {28, "F64", true, DType::kF64},      {29, "IQ1_M", false, DType::kF32},
    {30, "BF16", true, DType::kBF16},    {34, "TQ1_0", false, DType::kF32},
    {35, "TQ2_0", false, DType::kF32},   {39, "MXFP4", true, DType::kMxfp4},
};

absl::StatusOr<DType> TypeOf(uint32_t id) {
  for (const GgmlType& type : kGgmlTypes) {
    if (type.id != id) continue;
    if (type.known) return type.dtype;
    return absl::UnimplementedError(absl::StrCat(
        "its type ", type.name,
        " is not read; use F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K "
        "or MXFP4"));
  }
  return absl::InvalidArgumentError(absl::StrCat("its type has the unknown number ", id));
}

// Reads the header in order, a window at a time.
class GgufReader {
 public:
  explicit GgufReader(const ByteSource& source) : source_(source) {}

  int64_t at() const { return window_begin_ + cursor_; }

  // Whether `count` more array elements are within the limit of a file.
  bool TakeElements(uint64_t count) {
    if (count > static_cast<uint64_t>(elements_left_)) return false;
    elements_left_ -= static_cast<int64_t>(count);
    return true;
  }

  absl::Status Bytes(int64_t count, char* out) {
    while (count > 0) {
      if (cursor_ == static_cast<int64_t>(window_.size())) GRAFT_RETURN_IF_ERROR(Refill());
      const int64_t n = std::min(count, static_cast<int64_t>(window_.size()) - cursor_);
      std::memcpy(out, window_.data() + cursor_, static_cast<size_t>(n));
      cursor_ += n;
      out += n;
      count -= n;
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Number() {
    T value;
    GRAFT_RETURN_IF_ERROR(Bytes(sizeof(T), reinterpret_cast<char*>(&value)));
    return value;
  }

  absl::StatusOr<std::string> String() {
    GRAFT_ASSIGN_OR_RETURN(const uint64_t length, Number<uint64_t>());
    if (length > static_cast<uint64_t>(kMaxGgufStringBytes) ||
        static_cast<int64_t>(length) > source_.size() - at()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a string of ", length, " bytes does not fit; the file is cut off or broken"));
    }
    std::string value(static_cast<size_t>(length), '\0');
    GRAFT_RETURN_IF_ERROR(Bytes(static_cast<int64_t>(length), value.data()));
    return value;
  }

 private:
  absl::Status Refill() {
    window_begin_ += static_cast<int64_t>(window_.size());
    cursor_ = 0;
    const int64_t n = std::min(
        {kReadAheadBytes, source_.size() - window_begin_, kMaxGgufHeaderBytes - window_begin_});
    window_.resize(static_cast<size_t>(std::max<int64_t>(n, 0)));
    if (n <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("the header does not end within ",
                                                     window_begin_,
                                                     " bytes; the file is cut off or broken"));
    }
    return source_.ReadAt(window_begin_, n, window_.data());
  }

  const ByteSource& source_;
  std::string window_;
  int64_t window_begin_ = 0;
  int64_t cursor_ = 0;
  int64_t elements_left_ = kMaxGgufArrayElements;
};

template <typename T>
absl::StatusOr<Json> ReadScalar(GgufReader& reader) {
  GRAFT_ASSIGN_OR_RETURN(const T value, reader.Number<T>());
  if constexpr (std::is_floating_point_v<T>) {
    return Json(static_cast<double>(value));
  } else {
    return Json(static_cast<int64_t>(value));
  }
}

// The number with the fewest digits that is this float: 1e-5 rather than 9.99999974e-06, as the
// configuration had it that was converted.
double AsWritten(float value) {
  for (int digits = 1; digits < std::numeric_limits<float>::max_digits10; ++digits) {
    const double candidate = std::strtod(absl::StrFormat("%.*g", digits, value).c_str(), nullptr);
    if (static_cast<float>(candidate) == value) return candidate;
  }
  return value;
}

absl::StatusOr<Json> ReadValue(GgufReader& reader, uint32_t type, int depth);

absl::StatusOr<Json> ReadArray(GgufReader& reader, int depth) {
  if (depth >= kMaxArrayDepth) return absl::InvalidArgumentError("arrays are nested too deeply");
  GRAFT_ASSIGN_OR_RETURN(const uint32_t type, reader.Number<uint32_t>());
  GRAFT_ASSIGN_OR_RETURN(const uint64_t count, reader.Number<uint64_t>());
  if (!reader.TakeElements(count)) {
    return absl::InvalidArgumentError(absl::StrCat("an array of ", count,
                                                   " elements makes more than ",
                                                   kMaxGgufArrayElements, " of all arrays"));
  }
  Json::Array elements;
  for (uint64_t i = 0; i < count; ++i) {
    GRAFT_ASSIGN_OR_RETURN(Json element, ReadValue(reader, type, depth + 1));
    elements.push_back(std::move(element));
  }
  return Json(std::move(elements));
}

absl::StatusOr<Json> ReadValue(GgufReader& reader, uint32_t type, int depth) {
  switch (type) {
    case kUint8:
      return ReadScalar<uint8_t>(reader);
    case kInt8:
      return ReadScalar<int8_t>(reader);
    case kUint16:
      return ReadScalar<uint16_t>(reader);
    case kInt16:
      return ReadScalar<int16_t>(reader);
    case kUint32:
      return ReadScalar<uint32_t>(reader);
    case kInt32:
      return ReadScalar<int32_t>(reader);
    case kFloat32: {
      GRAFT_ASSIGN_OR_RETURN(const float value, reader.Number<float>());
      return Json(depth == 0 ? AsWritten(value) : static_cast<double>(value));
    }
    case kUint64:
      return ReadScalar<uint64_t>(reader);
    case kInt64:
      return ReadScalar<int64_t>(reader);
    case kFloat64:
      return ReadScalar<double>(reader);
    case kBool: {
      GRAFT_ASSIGN_OR_RETURN(const uint8_t value, reader.Number<uint8_t>());
      return Json(value != 0);
    }
    case kString: {
      GRAFT_ASSIGN_OR_RETURN(std::string value, reader.String());
      return Json(std::move(value));
    }
    case kArray:
      return ReadArray(reader, depth);
    default:
      return absl::InvalidArgumentError(absl::StrCat("a value has the unknown type ", type));
  }
}

// The info with its offset relative to the data section.
absl::StatusOr<TensorInfo> ReadTensorInfo(GgufReader& reader, const std::string& file) {
  TensorInfo info;
  info.file = file;
  GRAFT_ASSIGN_OR_RETURN(const uint32_t dimensions, reader.Number<uint32_t>());
  if (dimensions > kMaxTensorDimensions) {
    return absl::InvalidArgumentError(absl::StrCat("it has ", dimensions, " dimensions"));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    GRAFT_ASSIGN_OR_RETURN(const int64_t d, reader.Number<int64_t>());
    if (d < 0 || __builtin_mul_overflow(elements, d, &elements)) {
      return absl::InvalidArgumentError("its shape overflows");
    }
    info.shape.insert(info.shape.begin(), d);
  }
  GRAFT_ASSIGN_OR_RETURN(const uint32_t type, reader.Number<uint32_t>());
  GRAFT_ASSIGN_OR_RETURN(info.dtype, TypeOf(type));
  GRAFT_ASSIGN_OR_RETURN(const uint64_t offset, reader.Number<uint64_t>());
  const int64_t row = info.shape.empty() ? 1 : info.shape.back();
  if (row % BlockElements(info.dtype) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("its rows of ", row, " numbers are no whole ",
                                                   DTypeName(info.dtype), " blocks"));
  }
  if (__builtin_mul_overflow(elements / BlockElements(info.dtype), BlockBytes(info.dtype),
                             &info.bytes) ||
      offset > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError("its size overflows");
  }
  info.offset = static_cast<int64_t>(offset);
  return info;
}

absl::Status ReadMetadata(GgufReader& reader, int64_t keys, GgufHeader* header) {
  for (int64_t i = 0; i < keys; ++i) {
    GRAFT_ASSIGN_OR_RETURN(std::string key, reader.String());
    GRAFT_ASSIGN_OR_RETURN(const uint32_t type, reader.Number<uint32_t>());
    absl::StatusOr<Json> value = ReadValue(reader, type, 0);
    if (!value.ok()) {
      return absl::Status(value.status().code(),
                          absl::StrCat("key ", key, ": ", value.status().message()));
    }
    header->metadata.insert_or_assign(std::move(key), *std::move(value));
  }
  return absl::OkStatus();
}

absl::Status ReadTensorInfos(GgufReader& reader, int64_t count, const std::string& file,
                             GgufHeader* header) {
  for (int64_t i = 0; i < count; ++i) {
    GRAFT_ASSIGN_OR_RETURN(std::string name, reader.String());
    absl::StatusOr<TensorInfo> info = ReadTensorInfo(reader, file);
    if (!info.ok()) {
      return absl::Status(info.status().code(),
                          absl::StrCat("tensor ", name, ": ", info.status().message()));
    }
    if (!header->tensors.try_emplace(name, *std::move(info)).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is there twice"));
    }
  }
  return absl::OkStatus();
}

// Makes offsets absolute and checks that every tensor ends within the file.
absl::Status PlaceTensors(int64_t header_end, int64_t file_size, GgufHeader* header) {
  int64_t alignment = kDefaultAlignment;
  if (const Json* value = header->Find("general.alignment"); value != nullptr) {
    if (!value->is_int() || value->as_int() <= 0 || value->as_int() > (1 << 20)) {
      return absl::InvalidArgumentError("key general.alignment is no sensible number");
    }
    alignment = value->as_int();
  }
  const int64_t data = (header_end + alignment - 1) / alignment * alignment;
  for (auto& [name, info] : header->tensors) {
    if (data > file_size || info.offset > file_size - data ||
        info.bytes > file_size - data - info.offset) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", name, ": its ", info.bytes, " bytes at ", info.offset,
          " of the data end beyond the file of ", file_size, " bytes; the file is cut off"));
    }
    info.offset += data;
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufHeader> ReadHeader(const ByteSource& source, const std::string& file) {
  GgufReader reader(source);
  GRAFT_ASSIGN_OR_RETURN(const uint32_t magic, reader.Number<uint32_t>());
  if (magic != kMagic) return absl::InvalidArgumentError("it does not begin with GGUF");
  GRAFT_ASSIGN_OR_RETURN(const uint32_t version, reader.Number<uint32_t>());
  if (version != 2 && version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("its GGUF version is ", version, "; 2 and 3 are read (little-endian)"));
  }
  GRAFT_ASSIGN_OR_RETURN(const int64_t tensors, reader.Number<int64_t>());
  GRAFT_ASSIGN_OR_RETURN(const int64_t keys, reader.Number<int64_t>());
  if (tensors < 0 || tensors > kMaxGgufTensors || keys < 0 || keys > kMaxGgufKeys) {
    return absl::InvalidArgumentError(
        absl::StrCat("its header claims ", tensors, " tensors and ", keys, " keys"));
  }
  GgufHeader header;
  GRAFT_RETURN_IF_ERROR(ReadMetadata(reader, keys, &header));
  GRAFT_RETURN_IF_ERROR(ReadTensorInfos(reader, tensors, file, &header));
  GRAFT_RETURN_IF_ERROR(PlaceTensors(reader.at(), source.size(), &header));
  return header;
}

}  // namespace

const Json* GgufHeader::Find(absl::string_view key) const {
  const auto it = metadata.find(key);
  return it == metadata.end() ? nullptr : &it->second;
}

absl::StatusOr<GgufHeader> ReadGguf(const ByteSource& source, const std::string& file) {
  absl::StatusOr<GgufHeader> header = ReadHeader(source, file);
  if (!header.ok()) {
    return absl::Status(header.status().code(),
                        absl::StrCat(file, ": ", header.status().message()));
  }
  return header;
}

std::string FindGguf(const ModelFiles& files) {
  std::string found;
  for (const std::string& name : files.Names()) {
    if (!absl::EndsWith(name, ".gguf")) continue;
    if (!found.empty()) return "";
    found = name;
  }
  return found;
}

}  // namespace graft::spec
