#include "fileservice/cas/chunker.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"

namespace graft::fileservice {
namespace {

std::array<uint64_t, 256> MakeGearTable() {
  SeededRandom random(kGearSeed);
  std::array<uint64_t, 256> table;
  for (uint64_t& entry : table) entry = random.Next();
  return table;
}

const std::array<uint64_t, 256>& GearTable() {
  static const std::array<uint64_t, 256>& table = *new auto(MakeGearTable());
  return table;
}

// `bits` ones at the top: those bits of a gear hash have seen the most bytes.
uint64_t TopBits(int bits) { return ~uint64_t{0} << (64 - bits); }

// Content-defined cuts as in FastCDC: no byte before the minimum is looked at.
class CdcChunker final : public Chunker {
 public:
  explicit CdcChunker(const CdcParameters& parameters)
      : parameters_(parameters),
        gear_(GearTable()),
        mask_before_(TopBits(parameters.bits_before)),
        mask_after_(TopBits(parameters.bits_after)) {}

  size_t max_bytes() const override { return parameters_.max_bytes; }

  size_t Next(absl::string_view window) override {
    const size_t end = std::min(window.size(), parameters_.max_bytes);
    if (end <= parameters_.min_bytes) return end;
    const uint8_t* data = reinterpret_cast<const uint8_t*>(window.data());
    const size_t turn = std::min(end, parameters_.turn_bytes);
    uint64_t hash = 0;
    size_t at = parameters_.min_bytes;
    for (; at < turn; ++at) {
      hash = (hash << 1) + gear_[data[at]];
      if ((hash & mask_before_) == 0) return at + 1;
    }
    for (; at < end; ++at) {
      hash = (hash << 1) + gear_[data[at]];
      if ((hash & mask_after_) == 0) return at + 1;
    }
    return end;
  }

 private:
  const CdcParameters parameters_;
  const std::array<uint64_t, 256>& gear_;
  const uint64_t mask_before_;
  const uint64_t mask_after_;
};

class BoundaryChunker final : public Chunker {
 public:
  explicit BoundaryChunker(std::vector<int64_t> boundaries) : boundaries_(std::move(boundaries)) {}

  size_t max_bytes() const override { return kMaxChunkBytes; }

  size_t Next(absl::string_view window) override {
    while (next_ < boundaries_.size() && boundaries_[next_] <= at_) ++next_;
    size_t size = std::min(window.size(), kMaxChunkBytes);
    if (next_ < boundaries_.size()) {
      size = std::min(size, static_cast<size_t>(boundaries_[next_] - at_));
    }
    at_ += static_cast<int64_t>(size);
    return size;
  }

 private:
  const std::vector<int64_t> boundaries_;
  size_t next_ = 0;
  int64_t at_ = 0;
};

// "model.layers.12." of "model.layers.12.mlp.up.weight": the name up to its first number.
absl::string_view LayerPrefix(absl::string_view name) {
  size_t start = 0;
  while (start < name.size()) {
    size_t dot = name.find('.', start);
    if (dot == absl::string_view::npos) dot = name.size();
    const absl::string_view part = name.substr(start, dot - start);
    if (!part.empty() && std::all_of(part.begin(), part.end(), absl::ascii_isdigit)) {
      return name.substr(0, dot);
    }
    start = dot + 1;
  }
  return absl::string_view();
}

// Tensors below the first size are put together up to the second.
constexpr int64_t kCoalesceBelowBytes = 256 << 10;
constexpr int64_t kCoalesceUpToBytes = 1 << 20;

}  // namespace

ChunkProfile ProfileForName(absl::string_view path) {
  static constexpr absl::string_view kTextSuffixes[] = {".jsonl", ".ndjson", ".json", ".csv",
                                                        ".tsv",   ".txt",    ".md",   ".yaml",
                                                        ".yml",   ".jinja",  ".py"};
  const std::string lower = absl::AsciiStrToLower(path);
  if (absl::EndsWith(lower, ".safetensors")) return ChunkProfile::kSafetensors;
  for (absl::string_view suffix : kTextSuffixes) {
    if (absl::EndsWith(lower, suffix)) return ChunkProfile::kText;
  }
  return ChunkProfile::kContent;
}

std::unique_ptr<Chunker> MakeCdc(const CdcParameters& parameters) {
  GRAFT_CHECK(parameters.min_bytes <= parameters.turn_bytes);
  return std::make_unique<CdcChunker>(parameters);
}

std::unique_ptr<Chunker> MakeBoundaryChunker(std::vector<int64_t> boundaries) {
  return std::make_unique<BoundaryChunker>(std::move(boundaries));
}

std::unique_ptr<Chunker> MakeChunker(ChunkProfile* profile, absl::string_view head,
                                     int64_t file_bytes) {
  if (*profile == ChunkProfile::kText) return MakeCdc(kTextParameters);
  if (*profile == ChunkProfile::kSafetensors) {
    const std::vector<TensorExtent> tensors = ParseSafetensorsHead(head, file_bytes);
    if (!tensors.empty()) {
      const int64_t head_bytes = static_cast<int64_t>(SafetensorsHeadBytes(head, file_bytes));
      return MakeBoundaryChunker(TensorBoundaries(tensors, head_bytes, file_bytes));
    }
  }
  *profile = ChunkProfile::kContent;
  return MakeCdc(kContentParameters);
}

std::vector<int64_t> TensorBoundaries(const std::vector<TensorExtent>& tensors, int64_t head_bytes,
                                      int64_t file_bytes) {
  std::vector<int64_t> boundaries = {head_bytes};
  int64_t run_begin = head_bytes;  // of the small tensors that are being put together
  absl::string_view run_prefix;
  bool run_open = false;
  for (const TensorExtent& tensor : tensors) {
    const int64_t size = tensor.end - tensor.begin;
    if (size == 0) continue;
    const absl::string_view prefix = LayerPrefix(tensor.name);
    const bool joins = run_open && size < kCoalesceBelowBytes && prefix == run_prefix &&
                       tensor.end - run_begin <= kCoalesceUpToBytes;
    if (!joins) {
      boundaries.push_back(tensor.begin);
      run_begin = tensor.begin;
      run_prefix = prefix;
      run_open = size < kCoalesceBelowBytes;
    }
    // Pieces are counted from the tensor's start, so that they are alike wherever it lies.
    for (int64_t at = tensor.begin + static_cast<int64_t>(kMaxChunkBytes); at < tensor.end;
         at += static_cast<int64_t>(kMaxChunkBytes)) {
      boundaries.push_back(at);
    }
  }
  boundaries.push_back(file_bytes);
  return boundaries;
}

}  // namespace graft::fileservice
