#include "fileservice/cas/chunker.h"

#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/random.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<std::string> Cut(Chunker& chunker, absl::string_view file) {
  std::vector<std::string> chunks;
  while (!file.empty()) {
    const size_t size = chunker.Next(file.substr(0, chunker.max_bytes()));
    chunks.emplace_back(file.substr(0, size));
    file.remove_prefix(size);
  }
  return chunks;
}

std::string HashOfLengths(const std::vector<std::string>& chunks) {
  std::string lengths;
  for (const std::string& chunk : chunks) absl::StrAppend(&lengths, chunk.size(), ",");
  return Sha256::HexOf(lengths);
}

double ShareOfNewBytes(const std::vector<std::string>& before,
                       const std::vector<std::string>& after) {
  const std::set<std::string> known(before.begin(), before.end());
  size_t all = 0, fresh = 0;
  for (const std::string& chunk : after) {
    all += chunk.size();
    if (known.count(chunk) == 0) fresh += chunk.size();
  }
  return static_cast<double>(fresh) / static_cast<double>(all);
}

std::string SafetensorsFile(const std::vector<std::pair<std::string, size_t>>& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  size_t at = 0;
  std::string data;
  for (const auto& [name, size] : tensors) {
    absl::StrAppend(&header, ",\"", name, "\":{\"dtype\":\"BF16\",\"shape\":[", size / 2,
                    "],\"data_offsets\":[", at, ",", at + size, "]}");
    data += SeededRandom(std::hash<std::string>()(name)).Bytes(size);
    at += size;
  }
  header += "}";
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i)));
  return file + header + data;
}

std::vector<std::string> CutSafetensors(const std::string& file, ChunkProfile* profile) {
  const auto size = static_cast<int64_t>(file.size());
  const std::unique_ptr<Chunker> chunker = MakeChunker(profile, file, size);
  return Cut(*chunker, file);
}

// The protocol's test vectors: a client that cuts elsewhere shares nothing with the others.
TEST(ChunkerTest, CutsAreThoseOfTheProtocol) {
  const std::string file = SeededRandom(7).Bytes(3 << 20);
  const auto content = Cut(*MakeCdc(kContentParameters), file);
  const auto text = Cut(*MakeCdc(kTextParameters), file);
  EXPECT_EQ(content.size(), 54u);
  EXPECT_EQ(text.size(), 171u);
  EXPECT_EQ(HashOfLengths(content).substr(0, 16), "cf94d546900ce004");
  EXPECT_EQ(HashOfLengths(text).substr(0, 16), "b1ea38835bc9c8b3");
}

TEST(ChunkerTest, SizesStayWithinTheProfileAndMakeUpTheFile) {
  const std::string file = SeededRandom(8).Bytes(5 << 20);
  const auto chunks = Cut(*MakeCdc(kContentParameters), file);
  std::string joined;
  for (size_t i = 0; i < chunks.size(); ++i) {
    joined += chunks[i];
    EXPECT_LE(chunks[i].size(), kContentParameters.max_bytes);
    if (i + 1 < chunks.size()) {
      EXPECT_GE(chunks[i].size(), kContentParameters.min_bytes);
    }
  }
  EXPECT_EQ(joined, file);
}

TEST(ChunkerTest, AnInsertionChangesOnlyTheChunksAroundIt) {
  const std::string before = SeededRandom(9).Bytes(8 << 20);
  std::string after = before;
  after.insert(1 << 20, "seventeen bytes!!");
  auto chunker = MakeCdc(kContentParameters);
  EXPECT_LT(ShareOfNewBytes(Cut(*chunker, before), Cut(*chunker, after)), 0.05);
}

// 20 x 100 KiB are 6 % of the file; the cuts around them must not make much more of it.
TEST(ChunkerTest, CutsFallTogetherAgainSoonBehindAnOverwrite) {
  SeededRandom random(10);
  const std::string before = random.Bytes(32 << 20);
  std::string after = before;
  for (int i = 0; i < 20; ++i) {
    after.replace((static_cast<size_t>(i) * 3 + 1) << 19, 100 << 10, random.Bytes(100 << 10));
  }
  auto chunker = MakeCdc(kContentParameters);
  EXPECT_LT(ShareOfNewBytes(Cut(*chunker, before), Cut(*chunker, after)), 0.13);
}

TEST(ChunkerTest, AByteRunIsCutAtTheMaximum) {
  const std::string zeroes(1 << 20, '\0');
  for (const std::string& chunk : Cut(*MakeCdc(kContentParameters), zeroes)) {
    EXPECT_EQ(chunk.size(), kContentParameters.max_bytes);
  }
}

TEST(ChunkerTest, SafetensorsAreCutAtHeaderAndTensors) {
  const std::string file = SafetensorsFile({{"embed", 5 << 20},
                                            {"model.layers.0.norm", 4096},
                                            {"model.layers.0.bias", 4096},
                                            {"model.layers.1.norm", 4096},
                                            {"model.layers.1.up", 1 << 20}});
  ChunkProfile profile = ChunkProfile::kSafetensors;
  const auto chunks = CutSafetensors(file, &profile);
  EXPECT_EQ(profile, ChunkProfile::kSafetensors);
  std::vector<size_t> sizes;
  for (const std::string& chunk : chunks) sizes.push_back(chunk.size());
  sizes.erase(sizes.begin());  // the header
  // Small tensors of one layer share a chunk, those of another do not join.
  EXPECT_THAT(sizes, ElementsAre(4 << 20, 1 << 20, 8192, 4096, 1 << 20));
}

TEST(ChunkerTest, AResharedModelKeepsItsTensorsChunks) {
  std::vector<std::pair<std::string, size_t>> tensors;
  for (int i = 0; i < 12; ++i) tensors.emplace_back(absl::StrCat("layers.", i, ".w"), 700'000);
  std::vector<std::pair<std::string, size_t>> first(tensors.begin() + 6, tensors.end());
  std::vector<std::pair<std::string, size_t>> second(tensors.begin(), tensors.begin() + 6);
  ChunkProfile profile = ChunkProfile::kSafetensors;
  const auto whole = CutSafetensors(SafetensorsFile(tensors), &profile);
  auto parts = CutSafetensors(SafetensorsFile(first), &profile);
  const auto rest = CutSafetensors(SafetensorsFile(second), &profile);
  parts.insert(parts.end(), rest.begin(), rest.end());
  EXPECT_LT(ShareOfNewBytes(whole, parts), 0.001);
}

TEST(ChunkerTest, ADoubtfulHeaderIsCutByContent) {
  const std::string sound = SafetensorsFile({{"a", 1 << 20}, {"b", 1 << 20}});
  const auto with = [&sound](absl::string_view from, absl::string_view to) {
    std::string file = sound;
    return file.replace(file.find(std::string(from)), from.size(), std::string(to));
  };
  const std::string doubtful[] = {
      with("[0,1048576]", "[0,1048577]"),  // overlaps
      with("[0,1048576]", "[4,1048576]"),  // leaves a hole
      with("[0,1048576]", "[-1,048576]"),  // negative
      with("\"dtype\"", "\"dtype\\"),      // no JSON
      sound + "tail",                      // bytes behind the last tensor
      std::string(8, '\xff') + sound,      // an impossible length
      sound.substr(0, 100),                // cut off
      "short",
  };
  for (const std::string& file : doubtful) {
    EXPECT_THAT(ParseSafetensorsHead(file, static_cast<int64_t>(file.size())), IsEmpty());
    ChunkProfile profile = ChunkProfile::kSafetensors;
    CutSafetensors(file, &profile);
    EXPECT_EQ(profile, ChunkProfile::kContent);
  }
}

TEST(ChunkerTest, ProfilesFollowTheName) {
  EXPECT_EQ(ProfileForName("a/model-00001.SAFETENSORS"), ChunkProfile::kSafetensors);
  EXPECT_EQ(ProfileForName("train.jsonl"), ChunkProfile::kText);
  EXPECT_EQ(ProfileForName("model.gguf"), ChunkProfile::kContent);
}

}  // namespace
}  // namespace graft::fileservice
