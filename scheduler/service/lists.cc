#include "scheduler/service/lists.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/timestamp.pb.h"
#include "google/protobuf/util/field_mask_util.h"
#include "rpc/status.h"
#include "scheduler/service/enum_names.h"

namespace graft::scheduler {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FieldMask;
using google::protobuf::Message;
using google::protobuf::util::FieldMaskUtil;
using rpc::FilterType;
using rpc::FilterValue;

constexpr int kScanned = 1000;  // records looked at a time

bool IsTimestamp(const Descriptor* type) {
  return type != nullptr && type->full_name() == "google.protobuf.Timestamp";
}

FilterType TypeOf(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return FilterType::kInt;
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FilterType::kDouble;
    case FieldDescriptor::CPPTYPE_BOOL:
      return FilterType::kBool;
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return IsTimestamp(field.message_type()) ? FilterType::kTime : FilterType::kString;
    default:
      return FilterType::kString;
  }
}

// The field at the end of `path`; a bug of the caller where there is none.
const FieldDescriptor& FieldAt(const Descriptor& type, absl::string_view path) {
  const Descriptor* at = &type;
  const FieldDescriptor* field = nullptr;
  for (absl::string_view part : absl::StrSplit(path, '.')) {
    GRAFT_CHECK(at != nullptr) << std::string(path) << " leads through a scalar";
    field = at->FindFieldByName(std::string(part));
    GRAFT_CHECK(field != nullptr) << type.full_name() << " has no " << std::string(path);
    at = field->message_type();
  }
  return *field;
}

FilterValue ScalarOf(const Message& message, const FieldDescriptor& field, int index) {
  const auto& reflection = *message.GetReflection();
  const bool repeated = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return int64_t{repeated ? reflection.GetRepeatedInt32(message, &field, index)
                              : reflection.GetInt32(message, &field)};
    case FieldDescriptor::CPPTYPE_INT64:
      return int64_t{repeated ? reflection.GetRepeatedInt64(message, &field, index)
                              : reflection.GetInt64(message, &field)};
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return repeated ? reflection.GetRepeatedDouble(message, &field, index)
                      : reflection.GetDouble(message, &field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return repeated ? reflection.GetRepeatedBool(message, &field, index)
                      : reflection.GetBool(message, &field);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumShort(*field.enum_type(),
                       repeated ? reflection.GetRepeatedEnumValue(message, &field, index)
                                : reflection.GetEnumValue(message, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return repeated ? reflection.GetRepeatedString(message, &field, index)
                      : reflection.GetString(message, &field);
    default:
      return std::string();
  }
}

FilterValue MessageValue(const Message& message) {
  if (IsTimestamp(message.GetDescriptor())) {
    return FromTimestamp(static_cast<const google::protobuf::Timestamp&>(message));
  }
  const Descriptor& type = *message.GetDescriptor();
  if (type.oneof_decl_count() == 0) return std::string();
  const FieldDescriptor* set =
      message.GetReflection()->GetOneofFieldDescriptor(message, type.oneof_decl(0));
  return set == nullptr ? std::string() : absl::AsciiStrToUpper(set->name());
}

// The values at `path`: none where it is absent, several where it repeats.
void Collect(const Message& message, absl::string_view path, std::vector<FilterValue>& values) {
  const std::pair<absl::string_view, absl::string_view> split =
      absl::StrSplit(path, absl::MaxSplits('.', 1));
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(std::string(split.first));
  if (field == nullptr) return;
  const auto& reflection = *message.GetReflection();
  if (field->is_map()) {
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      const Message& entry = reflection.GetRepeatedMessage(message, field, i);
      const auto* key = entry.GetDescriptor()->map_key();
      if (entry.GetReflection()->GetString(entry, key) != split.second) continue;
      values.push_back(ScalarOf(entry, *entry.GetDescriptor()->map_value(), -1));
    }
    return;
  }
  const bool message_type = field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (field->is_repeated()) {
    for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
      if (message_type) {
        Collect(reflection.GetRepeatedMessage(message, field, i), split.second, values);
      } else {
        values.push_back(ScalarOf(message, *field, i));
      }
    }
    return;
  }
  if (field->has_presence() && !reflection.HasField(message, field)) return;
  if (!message_type) return values.push_back(ScalarOf(message, *field, -1));
  const Message& inner = reflection.GetMessage(message, field);
  if (split.second.empty()) return values.push_back(MessageValue(inner));
  Collect(inner, split.second, values);
}

// --- Orders: sort keys that compare as bytes ---

struct OrderTerm {
  std::string path;
  bool descending = false;
};

absl::StatusOr<std::vector<OrderTerm>> ParseOrder(absl::string_view text,
                                                  const std::vector<std::string>& known) {
  std::vector<OrderTerm> terms;
  for (absl::string_view part : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(part, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    const bool direction = words.size() == 2 && (words[1] == "asc" || words[1] == "desc");
    const bool ok = (words.size() == 1 || direction) &&
                    std::find(known.begin(), known.end(), words[0]) != known.end();
    if (!ok) {
      return rpc::ErrorBuilder(
                 absl::StatusCode::kInvalidArgument,
                 absl::StrCat("order_by '", part, "' is not `field [asc|desc]` with one of: ",
                              absl::StrJoin(known, ", ")))
          .Reason("FIELD_INVALID")
          .Field("order_by", "unknown order")
          .Build();
    }
    terms.push_back({std::string(words[0]), direction && words[1] == "desc"});
  }
  return terms;
}

// Zero bytes are escaped and the end is marked, so that no value is the start of another.
std::string SortBytes(const FilterValue& value) {
  const auto of_int = [](int64_t number) {
    return BigEndian(static_cast<uint64_t>(number) ^ (uint64_t{1} << 63));
  };
  if (const auto* text = std::get_if<std::string>(&value)) {
    std::string bytes;
    for (char c : *text) bytes.append(c == '\0' ? std::string("\0\xff", 2) : std::string(1, c));
    return bytes.append("\0\0", 2);
  }
  if (const auto* number = std::get_if<int64_t>(&value)) return of_int(*number);
  if (const auto* flag = std::get_if<bool>(&value)) return of_int(*flag ? 1 : 0);
  if (const auto* time = std::get_if<absl::Time>(&value)) return of_int(absl::ToUnixMicros(*time));
  uint64_t bits = 0;
  const double number = std::get<double>(value);
  static_assert(sizeof bits == sizeof number);
  std::memcpy(&bits, &number, sizeof bits);
  const uint64_t sign = uint64_t{1} << 63;
  return BigEndian((bits & sign) != 0 ? ~bits : bits | sign);
}

std::string SortKey(const Message& message, const std::vector<OrderTerm>& order,
                    absl::string_view record_key) {
  std::string key;
  for (const OrderTerm& term : order) {
    std::vector<FilterValue> values;
    Collect(message, term.path, values);
    // What is absent comes first.
    std::string bytes = values.empty() ? std::string(1, '\0') : "\x01" + SortBytes(values[0]);
    if (term.descending) {
      for (char& c : bytes) c = static_cast<char>(~c);
    }
    key += bytes;
  }
  return absl::StrCat(key, record_key);
}

// What a page is made from: resources by their sort keys, never more than fit and one.
class PageBuilder {
 public:
  PageBuilder(size_t size, std::string after) : size_(size), after_(std::move(after)) {}
  // Returns whether another that sorts after this one could still belong to the page.
  bool Add(std::string key, MessagePtr resource) {
    if (key <= after_) return true;
    found_.emplace(std::move(key), std::move(resource));
    if (found_.size() > size_ + 1) found_.erase(std::prev(found_.end()));
    return found_.size() <= size_;
  }
  // The last key of the page, when there is more behind it.
  std::string Finish(std::vector<MessagePtr>& resources) {
    std::string last;
    for (auto& [key, resource] : found_) {
      if (resources.size() == size_) return last;
      last = key;
      resources.push_back(std::move(resource));
    }
    return "";
  }

 private:
  const size_t size_;
  const std::string after_;
  std::map<std::string, MessagePtr> found_;
};

}  // namespace

absl::StatusOr<rpc::Filter> ParseFilter(absl::string_view text, const ListFields& fields,
                                        const Descriptor& type) {
  rpc::FilterSchema schema;
  for (const ListField& field : fields.filter) {
    const FieldDescriptor& at = FieldAt(type, field.path);
    schema[at.is_map() ? absl::StrCat(field.name, ".*") : field.name] =
        at.is_map() ? FilterType::kString : TypeOf(at);
  }
  return rpc::Filter::Parse(text, schema);
}

bool Matches(const rpc::Filter& filter, const ListFields& fields, const Message& resource) {
  return filter.Matches([&](absl::string_view name) {
    std::vector<FilterValue> values;
    for (const ListField& field : fields.filter) {
      if (name == field.name) {
        Collect(resource, field.path, values);
      } else if (absl::StartsWith(name, field.name) && name[field.name.size()] == '.') {
        Collect(resource, absl::StrCat(field.path, name.substr(field.name.size())), values);
      }
    }
    return values;
  });
}

absl::StatusOr<MessagePage> ListMessages(const Store& store, const rpc::PageTokenCodec& tokens,
                                         const ListQuery& query, const ListFields& fields,
                                         const Descriptor& type, const LoadRecord& load) {
  GRAFT_ASSIGN_OR_RETURN(const int size, rpc::EffectivePageSize(query.page_size));
  GRAFT_ASSIGN_OR_RETURN(const rpc::Filter filter, ParseFilter(query.filter, fields, type));
  GRAFT_ASSIGN_OR_RETURN(const auto order, ParseOrder(query.order_by, fields.order));
  const std::string text =
      absl::StrJoin({query.method, query.parent, query.filter, query.order_by}, "\n");
  rpc::PageToken token;
  if (!query.page_token.empty()) {
    GRAFT_ASSIGN_OR_RETURN(token, tokens.Decode(query.page_token, text));
  }
  PageBuilder builder(static_cast<size_t>(size), token.last_key);
  ListRequest list{.family = query.family, .prefix = query.prefix, .limit = kScanned};
  if (order.empty()) {
    list.after = token.last_key;
    // Most pages need few records more than they show.
    if (query.filter.empty()) list.limit = std::min(kScanned, size + 1);
  }
  std::string also = query.also_prefix;
  MessagePage page{.revision = static_cast<int64_t>(token.revision)};
  for (bool more = true; more;) {
    GRAFT_ASSIGN_OR_RETURN(const ListResult result, store.List(list));
    if (page.revision == 0) page.revision = result.revision;
    more = result.more;
    for (const Record& record : result.records) {
      list.after = record.key;
      GRAFT_ASSIGN_OR_RETURN(MessagePtr resource, load(record));
      if (resource == nullptr || !Matches(filter, fields, *resource)) continue;
      std::string key = SortKey(*resource, order, record.key);
      if (builder.Add(std::move(key), std::move(resource)) || !order.empty()) continue;
      more = false;
      break;
    }
    if (!more && !also.empty() && !order.empty()) {
      list.prefix = std::exchange(also, "");
      list.after.clear();
      more = true;
    }
  }
  const std::string last = builder.Finish(page.resources);
  if (!last.empty()) {
    page.next_page_token =
        tokens.Encode({.last_key = last, .revision = static_cast<uint64_t>(page.revision)}, text);
  }
  return page;
}

absl::Status CheckReadMask(const FieldMask& mask, const Descriptor& type) {
  for (const std::string& path : mask.paths()) {
    if (FieldMaskUtil::GetFieldDescriptors(&type, path, nullptr)) continue;
    return rpc::ErrorBuilder(
               absl::StatusCode::kInvalidArgument,
               absl::StrCat("read_mask names '", path, "', which ", type.name(), " does not have"))
        .Reason("FIELD_MASK_INVALID")
        .Metadata("path", path)
        .Build();
  }
  return absl::OkStatus();
}

void ApplyReadMask(const FieldMask& mask, Message& resource) {
  if (!mask.paths().empty()) FieldMaskUtil::TrimMessage(mask, &resource);
}

}  // namespace graft::scheduler
