#include "base/sha256_many.h"

#include <string>
#include <vector>

#include "base/random.h"
#include "gmock/gmock.h"

namespace graft {
namespace {

// Lengths around blocks and paddings, and longer ones.
TEST(Sha256ManyTest, EveryMessageGetsItsOwnDigest) {
  SeededRandom random(3);
  std::vector<std::string> messages;
  for (size_t size = 0; size < 260; ++size) messages.push_back(random.Bytes(size));
  for (int i = 0; i < 40; ++i) messages.push_back(random.Bytes(random.Uniform(70'000)));
  for (size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, messages.size()}) {
    const std::vector<absl::string_view> views(messages.begin(),
                                               messages.begin() + static_cast<long>(count));
    std::vector<Sha256Digest> digests(count);
    Sha256Many(views, digests.data());
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(digests[i], Sha256::Of(views[i])) << views[i].size() << " bytes";
    }
  }
}

TEST(Sha256ManyTest, AStreamGoesOnBesideTheMessages) {
  SeededRandom random(4);
  const std::string content = random.Bytes(1'000'000);
  Sha256Stream stream;
  for (size_t at = 0; at < content.size();) {
    const size_t size = std::min<size_t>(content.size() - at, random.Uniform(50'000));
    const absl::string_view window = absl::string_view(content).substr(at, size);
    std::vector<absl::string_view> chunks;
    for (size_t from = 0; from < size; from += 7'001) chunks.push_back(window.substr(from, 7'001));
    std::vector<Sha256Digest> digests(chunks.size());
    const absl::string_view parts[] = {window.substr(0, size / 3), window.substr(size / 3)};
    Sha256Many(chunks, digests.data(), &stream, parts);
    for (size_t i = 0; i < chunks.size(); ++i) EXPECT_EQ(digests[i], Sha256::Of(chunks[i]));
    at += size;
  }
  EXPECT_EQ(stream.Finish(), Sha256::Of(content));
}

TEST(Sha256ManyTest, AStreamOfAnyPartsHasTheHashOfTheWhole) {
  SeededRandom random(5);
  for (size_t size = 0; size < 200; ++size) {
    const std::string content = random.Bytes(size);
    Sha256Stream stream;
    const size_t half = size == 0 ? 0 : random.Uniform(size);
    stream.Update(absl::string_view(content).substr(0, half));
    stream.Update(absl::string_view(content).substr(half));
    EXPECT_EQ(stream.Finish(), Sha256::Of(content)) << size;
  }
}

}  // namespace
}  // namespace graft
