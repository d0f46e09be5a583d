// The file of a TokenizedDataset.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/data/dataset/tokenized_impl.h"

namespace graft::data {
namespace {

constexpr absl::string_view kMagic = "GRAFTTOK";
constexpr size_t kAlignment = 64;

// Fixed part of the file; the arrays follow in the order of the counts, each aligned.
struct FileHeader {
  char magic[8];
  uint32_t version;
  uint32_t crc;  // of everything behind the header
  uint64_t meta_bytes;
  uint64_t sequences;
  uint64_t tokens;
  uint64_t file_bytes;
};
static_assert(sizeof(FileHeader) == 48);

size_t Aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Json StatsJson(const TokenStats& s) {
  Json json = Json::MakeObject();
  json.Set("rows", s.rows).Set("tokens", s.tokens).Set("supervised_tokens", s.supervised_tokens);
  json.Set("truncated_rows", s.truncated_rows).Set("truncated_tokens", s.truncated_tokens);
  json.Set("dropped_overlong", s.dropped_overlong).Set("dropped_empty", s.dropped_empty);
  json.Set("bad_rows", s.bad_rows).Set("longest", s.longest);
  json.Set("max_seq_length", s.max_seq_length);
  Json warnings = Json::MakeArray();
  for (const DatasetWarning& warning : s.warnings) {
    Json one = Json::MakeObject();
    warnings.Append(one.Set("code", warning.code).Set("message", warning.message));
  }
  Json problems = Json::MakeArray();
  for (const RowProblem& problem : s.problems) problems.Append(problem.ToJson());
  Json refused = Json::MakeArray();
  for (const int64_t row : s.refused) refused.Append(row);
  return json.Set("warnings", warnings).Set("problems", problems).Set("refused", refused);
}

TokenStats StatsOf(const Json& json) {
  TokenStats s;
  s.rows = json.GetInt("rows");
  s.tokens = json.GetInt("tokens");
  s.supervised_tokens = json.GetInt("supervised_tokens");
  s.truncated_rows = json.GetInt("truncated_rows");
  s.truncated_tokens = json.GetInt("truncated_tokens");
  s.dropped_overlong = json.GetInt("dropped_overlong");
  s.dropped_empty = json.GetInt("dropped_empty");
  s.bad_rows = json.GetInt("bad_rows");
  s.longest = static_cast<int>(json.GetInt("longest"));
  s.max_seq_length = static_cast<int>(json.GetInt("max_seq_length"));
  if (const Json* warnings = json.Find("warnings"); warnings != nullptr && warnings->is_array()) {
    for (const Json& one : warnings->as_array()) {
      s.warnings.push_back({one.GetString("code"), one.GetString("message")});
    }
  }
  if (const Json* problems = json.Find("problems"); problems != nullptr && problems->is_array()) {
    for (const Json& one : problems->as_array()) s.problems.push_back(RowProblem::FromJson(one));
  }
  if (const Json* refused = json.Find("refused"); refused != nullptr && refused->is_array()) {
    for (const Json& row : refused->as_array())
      s.refused.push_back(row.is_int() ? row.as_int() : 0);
  }
  return s;
}

template <typename T>
absl::string_view BytesOf(absl::Span<const T> values) {
  return absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Writes a part of the file and what fills it up to the alignment.
absl::Status WritePart(int fd, absl::string_view bytes, uint32_t& crc) {
  static constexpr char kZeros[kAlignment] = {};
  for (const absl::string_view part :
       {bytes, absl::string_view(kZeros, Aligned(bytes.size()) - bytes.size())}) {
    crc = Crc32c(crc, part);
    for (size_t done = 0; done < part.size();) {
      const ssize_t n = write(fd, part.data() + done, part.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return ErrnoStatus(errno, "writing tokens");
      done += static_cast<size_t>(n);
    }
  }
  return absl::OkStatus();
}

// The whole file: the header, its checksum once it is known, and the parts.
absl::Status WriteFile(int fd, FileHeader header, absl::Span<const absl::string_view> parts) {
  uint32_t ignored = 0;
  const absl::string_view header_bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  GRAFT_RETURN_IF_ERROR(WritePart(fd, header_bytes, ignored));
  for (const absl::string_view part : parts) {
    GRAFT_RETURN_IF_ERROR(WritePart(fd, part, header.crc));
  }
  if (fchmod(fd, 0644) != 0 || pwrite(fd, &header, sizeof(header), 0) != sizeof(header) ||
      fsync(fd) != 0) {
    return ErrnoStatus(errno, "writing tokens");
  }
  return absl::OkStatus();
}

// The next array of a mapped file.
template <typename T>
absl::Span<const T> TakePart(absl::string_view& bytes, uint64_t count) {
  const auto* data = reinterpret_cast<const T*>(bytes.data());
  bytes.remove_prefix(Aligned(count * sizeof(T)));
  return absl::MakeConstSpan(data, count);
}

}  // namespace

absl::Status TokenizedDataset::Save(const std::string& path, absl::string_view key) const {
  Json meta = Json::MakeObject();
  meta.Set("key", key).Set("format", RowFormatName(impl_->format)).Set("per_row", impl_->per_row);
  meta.Set("stats", StatsJson(impl_->stats));
  const std::string meta_text = meta.Dump();
  const absl::string_view parts[] = {
      meta_text,           BytesOf(impl_->starts), BytesOf(impl_->rows), BytesOf(impl_->supervised),
      BytesOf(impl_->ids), BytesOf(impl_->mask)};
  FileHeader header = {};
  std::memcpy(header.magic, kMagic.data(), sizeof(header.magic));
  header.version = kTokenFileVersion;
  header.meta_bytes = meta_text.size();
  header.sequences = impl_->rows.size();
  header.tokens = impl_->ids.size();
  header.file_bytes = Aligned(sizeof(header));
  for (const absl::string_view part : parts) header.file_bytes += Aligned(part.size());
  // A name of its own: several processes may write the same tokens at the same time.
  std::string partial = path + ".partial.XXXXXX";
  const UniqueFd fd(mkostemp(partial.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, partial);
  const absl::Status written = WriteFile(fd.get(), header, parts);
  if (!written.ok() || rename(partial.c_str(), path.c_str()) != 0) {
    const absl::Status status = written.ok() ? ErrnoStatus(errno, path) : written;
    unlink(partial.c_str());
    return status;
  }
  const size_t slash = path.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path.substr(0, slash + 1));
}

absl::StatusOr<TokenizedDataset> TokenizedDataset::Load(const std::string& path,
                                                        absl::string_view key) {
  TokenizedDataset out;
  Impl& impl = *out.impl_;
  GRAFT_ASSIGN_OR_RETURN(impl.file, MappedFile::Open(path));
  absl::string_view bytes = impl.file.bytes();
  const auto torn = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat(path, ": ", why, "; make the tokens again"));
  };
  FileHeader header;
  if (bytes.size() < Aligned(sizeof(header))) return torn("the file is too short");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (absl::string_view(header.magic, 8) != kMagic) return torn("not a file of tokens");
  if (header.version != kTokenFileVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": version ", header.version, ", expected ", kTokenFileVersion));
  }
  bytes.remove_prefix(Aligned(sizeof(header)));
  const uint64_t largest = bytes.size();
  if (header.file_bytes != impl.file.bytes().size() || header.meta_bytes > largest ||
      header.sequences > largest || header.tokens > largest) {
    return torn("the file is cut off");
  }
  const uint64_t wanted = Aligned(header.meta_bytes) + Aligned((header.sequences + 1) * 8) +
                          Aligned(header.sequences * 8) + Aligned(header.sequences * 4) +
                          Aligned(header.tokens * 4) + Aligned(header.tokens);
  if (wanted != bytes.size()) return torn("the sizes do not fit");
  if (Crc32c(0, bytes) != header.crc) return torn("the checksum is wrong");
  GRAFT_ASSIGN_OR_RETURN(const Json meta, Json::Parse(bytes.substr(0, header.meta_bytes)));
  if (meta.GetString("key") != key) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, ": made of another dataset, tokenizer, template or options"));
  }
  bytes.remove_prefix(Aligned(header.meta_bytes));
  GRAFT_ASSIGN_OR_RETURN(impl.format, ParseRowFormat(meta.GetString("format")));
  impl.per_row = static_cast<int>(meta.GetInt("per_row", 1));
  if (const Json* stats = meta.Find("stats"); stats != nullptr) impl.stats = StatsOf(*stats);
  impl.starts = TakePart<int64_t>(bytes, header.sequences + 1);
  impl.rows = TakePart<int64_t>(bytes, header.sequences);
  impl.supervised = TakePart<int32_t>(bytes, header.sequences);
  impl.ids = TakePart<int32_t>(bytes, header.tokens);
  impl.mask = TakePart<uint8_t>(bytes, header.tokens);
  return out;
}

}  // namespace graft::data
