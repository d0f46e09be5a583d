#include "fileservice/cas/scrub.h"

#include <map>

#include "base/check.h"
#include "base/status_matchers.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/stats.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Somebody who has every chunk of the store as it was.
class Copies final : public ChunkSource {
 public:
  explicit Copies(TestStore& test) {
    GRAFT_CHECK_OK(
        test.db().Scan(Column::kChunk, "", [&](absl::string_view key, absl::string_view) {
          const ChunkId id = DigestFromBytes(key);
          copies_[id] = *test.store().Read(id);
          return true;
        }));
  }
  absl::StatusOr<std::string> Fetch(const ChunkId& id, uint32_t raw_bytes) override {
    const auto found = copies_.find(id);
    if (found == copies_.end()) return absl::NotFoundError("not here");
    return lies ? std::string(raw_bytes, 'x') : found->second;
  }
  void Forget(const ChunkId& id) { copies_.erase(id); }
  bool lies = false;

 private:
  std::map<ChunkId, std::string> copies_;
};

class ScrubTest : public ::testing::Test {
 protected:
  ScrubTest() {
    GRAFT_CHECK_OK(test_.Open());
    GRAFT_CHECK_OK(test_.MakeFileset("data"));
  }
  std::string Bytes(size_t size) { return test_.random().Bytes(size); }
  Scrubber::Report Scrub(std::vector<ChunkSource*> sources = {}) {
    auto report = Scrubber(test_.store(), std::move(sources), test_.clock(), {}).Run();
    GRAFT_CHECK_OK(report.status());
    return *std::move(report);
  }
  // Flips a bit of the chunk's header or payload.
  void Spoil(const ChunkId& id) {
    const ChunkRow row = *test_.store().Find(id);
    const int64_t begin = row.offset - static_cast<int64_t>(kRecordHeaderBytes);
    const bool padded = row.stored_bytes >= kAlignPayloadsFromBytes;
    const int64_t from = padded ? row.offset : begin;
    const int64_t bits = (row.offset + row.stored_bytes - from) * 8;
    test_.files().FlipBit(
        "/packs/" + PackFileName(row.pack),
        from * 8 + static_cast<int64_t>(test_.random().Uniform(static_cast<uint64_t>(bits))));
  }

  TestStore test_{{.seed = 6, .pack_bytes = 4 << 20}};
};

TEST_F(ScrubTest, EveryFlippedBitIsFoundRefusedAndRepairedFromACopy) {
  const int flips = testing::ByTier(100, 1000, 1000);
  Contents contents;
  for (int i = 0; i < flips; ++i) {
    contents["f" + std::to_string(i) + ".bin"] = Bytes(1 + test_.random().Uniform(12'000));
  }
  ASSERT_THAT(test_.Publish("data", contents), IsOk());
  EXPECT_THAT(Scrub().damages, IsEmpty());  // no false alarm
  Copies copies(test_);
  for (const auto& [path, content] : contents) Spoil(Sha256::Of(content));
  const Scrubber::Report report = Scrub({&copies});
  EXPECT_EQ(static_cast<int>(report.damages.size()), flips);
  EXPECT_EQ(report.lost(), 0);
  EXPECT_EQ(*test_.Read("data", "1"), contents);
  EXPECT_THAT(Scrub().damages, IsEmpty());
}

TEST_F(ScrubTest, WhatNobodyHasIsNamedAskedForAndHealedByTheNextUpload) {
  const std::string content = Bytes(9'000);
  const ChunkId id = Sha256::Of(content);
  ASSERT_THAT(test_.Publish("data", {{"a.bin", content}, {"b.bin", Bytes(9'000)}}), IsOk());
  Spoil(id);
  const Scrubber::Report report = Scrub();
  EXPECT_EQ(report.lost(), 1);
  EXPECT_THAT(*FilesWithChunks(test_.db(), {id}, 10),
              ElementsAre("workspaces/ws/filesets/data/versions/1/a.bin"));
  EXPECT_EQ(CountStore(test_.db())->lost_chunks, 1);
  EXPECT_THAT(test_.Read("data", "1"), ::testing::Not(IsOk()));
  ASSERT_THAT(test_.Collect(), IsOk());
  ASSERT_THAT(test_.Publish("data", {{"a.bin", content}}), IsOk());
  EXPECT_THAT(test_.Read("data", "1"), IsOk());
  EXPECT_EQ(Scrub().found_again, 1);
  EXPECT_EQ(CountStore(test_.db())->lost_chunks, 0);
}

TEST_F(ScrubTest, ALyingSourceIsNotBelieved) {
  const std::string content = Bytes(9'000);
  ASSERT_THAT(test_.Publish("data", {{"a.bin", content}}), IsOk());
  Copies honest(test_);
  Copies liar(test_);
  liar.lies = true;
  Spoil(Sha256::Of(content));
  const Scrubber::Report report = Scrub({&liar, &honest});
  EXPECT_EQ(report.lost(), 0);
  EXPECT_EQ(*test_.Read("data", "1"), (Contents{{"a.bin", content}}));
}

TEST_F(ScrubTest, ItKeepsToItsRateAndBeginsWithWhatWasNotScrubbedForLongest) {
  ASSERT_THAT(test_.Publish("data", {{"a.bin", Bytes(100'000)}}), IsOk());
  ASSERT_THAT(test_.store().SealOpenPack(), IsOk());
  test_.clock().Advance(absl::Hours(1));
  absl::Duration waited;
  Scrubber::Options options;
  options.bytes_per_second = 1000;
  options.not_again_within = absl::Minutes(30);
  options.pause = [&](absl::Duration time) {
    waited += time;
    test_.clock().Advance(time);
    return true;
  };
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto first,
                             Scrubber(test_.store(), {}, test_.clock(), options).Run());
  EXPECT_EQ(absl::ToInt64Seconds(waited), first.bytes / 1000);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto again,
                             Scrubber(test_.store(), {}, test_.clock(), options).Run());
  EXPECT_EQ(again.packs, 0);
}

}  // namespace
}  // namespace graft::fileservice
