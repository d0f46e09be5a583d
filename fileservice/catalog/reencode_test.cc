#include "fileservice/catalog/reencode.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_matchers.h"
#include "fileservice/cas/scrub.h"
#include "fileservice/catalog/rebuild.h"
#include "fileservice/catalog/stats.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::IsEmpty;

constexpr size_t kTensorBytes = 64 << 10;
constexpr int kTensors = 6;

// A checkpoint: bf16 numbers as `weights`, moved by `step` units of their last place at most.
class Model {
 public:
  explicit Model(Random& random)
      : random_(random), weights_(random.Bytes(kTensors * kTensorBytes)) {}
  void Train() {
    for (size_t i = 0; i < weights_.size(); i += 2) {
      uint16_t bits;
      std::memcpy(&bits, weights_.data() + i, sizeof(bits));
      bits = static_cast<uint16_t>(bits + random_.Uniform(5) - 2);
      std::memcpy(weights_.data() + i, &bits, sizeof(bits));
    }
  }
  std::string File() const {
    std::string header = "{";
    for (int i = 0; i < kTensors; ++i) {
      absl::StrAppend(&header, i == 0 ? "" : ",", "\"layers.", i,
                      ".w\":{\"dtype\":\"BF16\",\"shape\":[", kTensorBytes / 2,
                      "],\"data_offsets\":[", static_cast<size_t>(i) * kTensorBytes, ",",
                      static_cast<size_t>(i + 1) * kTensorBytes, "]}");
    }
    header += "}";
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size());
    file[1] = static_cast<char>(header.size() >> 8);
    return file + header + weights_;
  }

 private:
  Random& random_;
  std::string weights_;
};

class ReencodeTest : public ::testing::Test {
 protected:
  ReencodeTest() {
    GRAFT_CHECK_OK(test_.Open());
    GRAFT_CHECK_OK(test_.MakeFileset("run"));
  }
  void PublishNext() {
    model_.Train();
    contents_.push_back({{"model.safetensors", model_.File()}, {"state.json", "{}"}});
    ASSERT_THAT(test_.Publish("run", contents_.back()), IsOk());
  }
  Reencoder::Report Reencode(Reencoder::Options options = {}) {
    auto report = Reencoder(test_.catalog(), test_.store(), options).Run();
    GRAFT_CHECK_OK(report.status());
    return *report;
  }
  // Whether the version's tensors are deltas.
  bool IsDelta(size_t version) {
    const std::string& file = contents_[version - 1].at("model.safetensors");
    const FilePage page = *test_.catalog().GetFile(Sha256::Of(file));
    return test_.store().Find(page.chunks[1].id)->encoding == ChunkEncoding::kDeltaPlanesZstd;
  }
  void ExpectEverythingReadable() {
    for (size_t i = 0; i < contents_.size(); ++i) {
      const auto read = test_.Read("run", absl::StrCat(i + 1));
      ASSERT_THAT(read, IsOk());
      EXPECT_TRUE(*read == contents_[i]) << "version " << i + 1;
    }
  }

  TestStore test_{{.seed = 3}};
  Model model_{test_.random()};
  std::vector<Contents> contents_;
};

TEST_F(ReencodeTest, OldCheckpointsShrinkAndReadAsBefore) {
  for (int i = 0; i < 5; ++i) PublishNext();
  const int64_t before = test_.PackBytes();
  const Reencoder::Report report = Reencode();
  EXPECT_EQ(report.chunks, 3 * kTensors);
  EXPECT_LT(report.bytes_after, report.bytes_before * 35 / 100);
  EXPECT_FALSE(IsDelta(1));  // the keyframe
  for (const size_t i : {2, 3, 4}) EXPECT_TRUE(IsDelta(i)) << i;
  EXPECT_FALSE(IsDelta(5));  // the latest
  ExpectEverythingReadable();
  ASSERT_THAT(test_.Collect(), IsOk());  // gives the old bytes back
  EXPECT_LT(test_.PackBytes(), before * 7 / 10);
  ExpectEverythingReadable();
  EXPECT_EQ(Reencode().versions, 0);  // nothing is done twice
}

TEST_F(ReencodeTest, ADriftThatGrewGetsANewKeyframe) {
  for (int i = 0; i < 7; ++i) PublishNext();
  Reencode({.versions_per_keyframe = 2});
  for (const size_t i : {1, 4}) EXPECT_FALSE(IsDelta(i)) << i;
  for (const size_t i : {2, 3, 5, 6}) EXPECT_TRUE(IsDelta(i)) << i;
  ExpectEverythingReadable();
}

TEST_F(ReencodeTest, WhatARefOrAPinNamesStaysRaw) {
  for (int i = 0; i < 4; ++i) PublishNext();
  ASSERT_THAT(test_.catalog().SetRef({"ws", "run"}, "prod", 2, 0, ""), IsOk());
  ASSERT_THAT(test_.catalog().PutPin({"ws", "run"}, 3, "workspaces/ws/jobs/j"), IsOk());
  EXPECT_EQ(Reencode().chunks, 0);
}

TEST_F(ReencodeTest, ADeletedKeyframeLivesOnAsLongAsItsDeltas) {
  for (int i = 0; i < 3; ++i) PublishNext();
  Reencode();
  ASSERT_TRUE(IsDelta(2));
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "run"}, 1), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_THAT(test_.ReadEverything("run"), IsOk());
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "run"}, 2), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_LT(CountStore(test_.db())->chunks, 2 * kTensors);
  EXPECT_THAT(test_.ReadEverything("run"), IsOk());
}

TEST_F(ReencodeTest, DeltasSurviveScrubRebuildAndALostBaseThatComesBack) {
  for (int i = 0; i < 3; ++i) PublishNext();
  Reencode();
  ASSERT_THAT(test_.Collect(), IsOk());
  ASSERT_TRUE(IsDelta(2));
  const auto scrub = [&] {
    auto report = Scrubber(test_.store(), {}, test_.clock(), {}).Run();
    GRAFT_CHECK_OK(report.status());
    return *std::move(report);
  };
  EXPECT_THAT(scrub().damages, IsEmpty());
  // The base is spoiled: it and its delta cannot be read until somebody uploads the base again.
  const std::string& keyframe = contents_[0].at("model.safetensors");
  const ChunkId base = test_.catalog().GetFile(Sha256::Of(keyframe))->chunks[1].id;
  const ChunkRow row = *test_.store().Find(base);
  test_.files().FlipBit("/packs/" + PackFileName(row.pack), row.offset * 8 + 77);
  EXPECT_EQ(scrub().lost(), 1);
  EXPECT_THAT(test_.Read("run", "2"), ::testing::Not(IsOk()));
  ASSERT_THAT(test_.Publish("run", contents_[0]), IsOk());
  EXPECT_EQ(scrub().found_again, 2);
  ExpectEverythingReadable();

  const std::unique_ptr<rocksdb::Env> memory(rocksdb::NewMemEnv(rocksdb::Env::Default()));
  test_.Close();
  {
    auto db = *Database::Open("/db", {.env = memory.get()});
    GRAFT_ASSERT_OK_AND_ASSIGN(const RebuildReport report,
                               RebuildIndex(*db, test_.files(), "/packs", test_.clock()));
    EXPECT_EQ(report.versions, 4);
  }
  test_.UseEnv(memory.get());
  ASSERT_THAT(test_.Open(), IsOk());
  ExpectEverythingReadable();
  test_.Close();
}

}  // namespace
}  // namespace graft::fileservice
