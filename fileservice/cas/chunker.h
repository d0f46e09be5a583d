// Where files are cut into chunks. Both ends cut alike, so every constant here is part of the
// protocol: a change is a new profile, never an edit (chunker_test.cc holds the test vectors).
//
//   std::unique_ptr<Chunker> chunker = MakeChunker(profile, header);
//   while (window is not empty) {
//     size_t size = chunker->Next(window);   // window: max_bytes() of the file, or all that is
//     left
//     ... the chunk is window.substr(0, size) ...
//   }
//
// A chunker is used for one file by one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace graft::fileservice {

// Stored in file rows: never renumber.
enum class ChunkProfile : uint8_t {
  kContentFirst = 1,  // kContent of stores that were begun before it; nothing is cut so any more
  kText = 2,          // 4 to 64 KiB, 16 on average: jsonl, csv, txt, md, json
  kSafetensors = 3,   // at tensors, in pieces of 4 MiB
  kContent = 4,       // 32 to 256 KiB, 64 on average: whatever is not known better
};

// No chunk is larger, in any profile.
inline constexpr size_t kMaxChunkBytes = 4 << 20;

// A cut stands behind a byte, `min_bytes` or more into the chunk, where so many top bits of the
// gear hash are zero: `bits_before` of them before `turn_bytes`, `bits_after` from there on.
struct CdcParameters {
  size_t min_bytes;
  size_t turn_bytes;
  size_t max_bytes;
  int bits_before;
  int bits_after;
};
// One rule for all bytes: behind an edit the cuts fall together again sooner than where the rule
// depends on where the chunk began (38 against 50 MiB of new chunks for 205 edits of 100 KiB).
inline constexpr CdcParameters kContentParameters{32 << 10, 32 << 10, 256 << 10, 15, 15};
inline constexpr CdcParameters kTextParameters{4 << 10, 16 << 10, 64 << 10, 16, 12};
// The gear table is SplitMix64 from this seed.
inline constexpr uint64_t kGearSeed = 0x6772616674636463;  // "graftcdc"

class Chunker {
 public:
  virtual ~Chunker() = default;
  // How much Next wants to see.
  virtual size_t max_bytes() const = 0;
  // The length of the chunk that `window` begins with: at least 1, at most window.size(). `window`
  // must not be empty and holds max_bytes() or everything up to the end of the file.
  virtual size_t Next(absl::string_view window) = 0;
};

// The profile for a file with this name; kSafetensors still needs a sound header.
ChunkProfile ProfileForName(absl::string_view path);

std::unique_ptr<Chunker> MakeCdc(const CdcParameters& parameters);

// Cuts at the given offsets, which grow and end at the file's size, and at every 4 MiB between.
std::unique_ptr<Chunker> MakeBoundaryChunker(std::vector<int64_t> boundaries);

// How many bytes of a file MakeChunker may want to see first: 8 and then, when told, the header.
inline constexpr size_t kSafetensorsPrefixBytes = 8;
// Headers above this are not believed. safetensors itself stops at 100 MB.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100 << 20;

// The chunker of a profile. `head` is the beginning of the file: for kSafetensors the 8 bytes of
// length and the header; whatever is wrong with it, the result is that of kContent.
// `*profile` becomes what was really chosen.
std::unique_ptr<Chunker> MakeChunker(ChunkProfile* profile, absl::string_view head,
                                     int64_t file_bytes);

// The length of the header that these first 8 bytes announce, with the 8; 0 when it cannot be one.
uint64_t SafetensorsHeadBytes(absl::string_view first8, int64_t file_bytes);

struct TensorExtent {
  std::string name;
  std::string dtype;
  std::string shape;  // as the header writes it, for comparison
  int64_t begin;      // in the file
  int64_t end;
};
// The tensors of a safetensors header in file order, or empty when anything is doubtful: offsets
// that overlap, leave the file, or leave holes.
std::vector<TensorExtent> ParseSafetensorsHead(absl::string_view head, int64_t file_bytes);
// The cuts for these tensors (4.2 of FORMAT.md).
std::vector<int64_t> TensorBoundaries(const std::vector<TensorExtent>& tensors, int64_t head_bytes,
                                      int64_t file_bytes);

}  // namespace graft::fileservice
