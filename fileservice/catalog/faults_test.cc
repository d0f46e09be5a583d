// The power goes, and disks fail, at any point of uploads, publishes, deletions, re-encoding,
// collection and compaction. What was acknowledged is there, nothing is there by half.
#include <sys/stat.h>

#include <cstdlib>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "fileservice/cas/faulty_env.h"
#include "fileservice/cas/scrub.h"
#include "fileservice/catalog/fsck.h"
#include "fileservice/catalog/reencode.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

using ::testing::IsEmpty;

constexpr int kFilesets = 3;

// The watermark is a file of the machine; in memory where there is such a folder.
std::string MakeWatermarkFolder() {
  struct stat info;
  std::string folder = stat("/dev/shm", &info) == 0 ? "/dev/shm" : "/tmp";
  folder += "/graft-faults-XXXXXX";
  GRAFT_CHECK(mkdtemp(folder.data()) != nullptr);
  return folder;
}

// A client, and what it was told.
class Story {
 public:
  explicit Story(uint64_t seed)
      : watermark_(MakeWatermarkFolder()),
        env_(seed),
        random_(seed),
        test_({.seed = seed, .pack_bytes = 128 << 10, .env = &env_, .watermark_dir = watermark_}) {
    GRAFT_CHECK_OK(test_.Open());
    for (int i = 0; i < kFilesets; ++i) GRAFT_CHECK_OK(test_.MakeFileset(Name(i)));
    weights_ = random_.Bytes(40'000);
  }
  ~Story() {
    test_.Close();
    GRAFT_CHECK_OK(RemoveTree(watermark_));
  }

  // One call of one kind. An error leaves open whether it was done.
  absl::Status Act() {
    const std::string fileset = Name(static_cast<int>(random_.Uniform(kFilesets)));
    std::map<int64_t, Contents>& versions = acknowledged_[fileset];
    const uint64_t kind = random_.Uniform(10);
    if (kind < 5 || versions.size() < 3) return Publish(fileset);
    test_.clock().Advance(absl::Seconds(1));
    if (kind < 8) return Delete(fileset, versions.begin()->first);
    if (kind == 8) return Reencoder(test_.catalog(), test_.store(), {}).Run().status();
    return test_.Collect().status();
  }
  // Each kind of call once, for faults at each of their writes.
  absl::Status ActAll() {
    for (int i = 0; i < 4; ++i) GRAFT_RETURN_IF_ERROR(Publish(Name(0)));
    GRAFT_RETURN_IF_ERROR(Reencoder(test_.catalog(), test_.store(), {}).Run().status());
    GRAFT_RETURN_IF_ERROR(Delete(Name(0), acknowledged_[Name(0)].begin()->first));
    GRAFT_RETURN_IF_ERROR(test_.Collect().status());
    return test_.Collect().status();
  }

  // The machine stops before `operations` more writes and syncs were made.
  void StopSoon(int operations) {
    if (random_.Uniform(2) == 0) {
      test_.files().StopAfter(operations);
    } else {
      env_.StopAfter(operations);
    }
  }
  void PowerCut() {
    test_.files().StopAfter(0);
    env_.StopAfter(0);
    test_.Close();
    test_.files().Crash();
    env_.Crash();
  }
  void Open() { ASSERT_THAT(test_.Open(), IsOk()); }

  // Everything that was acknowledged can be read, and nothing is there by half.
  void Check() {
    for (int i = 0; i < kFilesets; ++i) {
      std::map<int64_t, Contents>& versions = acknowledged_[Name(i)];
      GRAFT_ASSERT_OK_AND_ASSIGN(const FilesetRecord record,
                                 test_.catalog().GetFileset({"ws", Name(i)}));
      GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<VersionRecord> present,
                                 test_.catalog().ListVersions(record, INT64_MAX, SIZE_MAX));
      std::map<int64_t, Contents> read;
      for (const VersionRecord& version : present) {
        const auto contents = test_.ReadVersion({record, version});
        ASSERT_THAT(contents, IsOk());
        read[version.number] = *contents;
      }
      Settle(Name(i), read, versions);
      ASSERT_EQ(read.size(), versions.size()) << Name(i);
      EXPECT_TRUE(read == versions) << Name(i);
    }
    unsure_.reset();
    GRAFT_ASSERT_OK_AND_ASSIGN(const FsckReport report,
                               CheckStore(test_.db(), test_.files(), "/packs"));
    EXPECT_THAT(report.problems, IsEmpty());
  }

  TestStore& test() { return test_; }
  FaultyEnv& env() { return env_; }

 private:
  // A call that ended with an error.
  struct Unsure {
    std::string fileset;
    int64_t version;
    std::optional<Contents> contents;  // none: a deletion
  };
  static std::string Name(int i) { return absl::StrCat("data", i); }

  // Checkpoints that drift, and small files that many versions share.
  Contents Next() {
    for (size_t i = 0; i < weights_.size(); i += 2) {
      weights_[i] = static_cast<char>(weights_[i] + (random_.Uniform(3) == 0 ? 1 : 0));
    }
    const std::string header =
        absl::StrCat(R"({"w":{"dtype":"BF16","shape":[)", weights_.size() / 2,
                     R"(],"data_offsets":[0,)", weights_.size(), "]}}");
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size());
    SeededRandom shared(random_.Uniform(6));
    return {{"model.safetensors", file + header + weights_},
            {"shared.bin", shared.Bytes(9'000)},
            {"own.txt", random_.Id(500)}};
  }
  absl::Status Publish(const std::string& fileset) {
    const Contents contents = Next();
    const auto record = test_.catalog().GetFileset({"ws", fileset});
    if (record.ok()) unsure_ = Unsure{fileset, record->latest_version + 1, contents};
    GRAFT_ASSIGN_OR_RETURN(const int64_t version, test_.Publish(fileset, contents));
    acknowledged_[fileset][version] = contents;
    unsure_.reset();
    return absl::OkStatus();
  }
  absl::Status Delete(const std::string& fileset, int64_t version) {
    unsure_ = Unsure{fileset, version, std::nullopt};
    GRAFT_RETURN_IF_ERROR(test_.catalog().DeleteVersion({"ws", fileset}, version));
    acknowledged_[fileset].erase(version);
    unsure_.reset();
    return absl::OkStatus();
  }
  // Takes the call whose answer was an error for done or not, as what was read says.
  void Settle(const std::string& fileset, const std::map<int64_t, Contents>& read,
              std::map<int64_t, Contents>& versions) {
    if (!unsure_.has_value() || unsure_->fileset != fileset) return;
    const bool there = read.contains(unsure_->version);
    if (unsure_->contents.has_value() && there) versions[unsure_->version] = *unsure_->contents;
    if (!unsure_->contents.has_value() && !there) versions.erase(unsure_->version);
  }

  const std::string watermark_;
  FaultyEnv env_;
  SeededRandom random_;
  TestStore test_;
  std::string weights_;
  std::map<std::string, std::map<int64_t, Contents>> acknowledged_;
  std::optional<Unsure> unsure_;
};

TEST(FaultsTest, NothingAcknowledgedIsLostWhereverThePowerGoes) {
  constexpr int kCutsOfAStory = 20;  // as often as FaultyEnv lets an index be opened, and some less
  const int stories = testing::ByTier(2, 25, 100);
  SeededRandom random(23);
  for (int number = 0; number < stories; ++number) {
    Story story(static_cast<uint64_t>(17 + number));
    for (int cut = 0; cut < kCutsOfAStory; ++cut) {
      story.StopSoon(static_cast<int>(random.Uniform(60)));
      while (story.Act().ok()) {
      }
      story.PowerCut();
      story.Open();
      if (::testing::Test::HasFatalFailure()) return;
      story.Check();
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "after power cut " << cut << " of story " << number;
        return;
      }
    }
  }
}

// How many writes and syncs ActAll makes.
int64_t CountSites(bool of_index) {
  Story story(29);
  const auto count = [&] {
    return of_index ? story.env().operations()
                    : story.test().files().operations(FaultyFiles::Fault::kNoSpace) +
                          story.test().files().operations(FaultyFiles::Fault::kSyncFails);
  };
  const int64_t before = count();
  GRAFT_CHECK_OK(story.ActAll());
  return count() - before;
}

// The call fails or gets by; what was acknowledged is read meanwhile and after the next start.
void FailAt(const std::function<void(Story&)>& plant) {
  Story story(29);
  plant(story);
  story.ActAll().IgnoreError();
  story.Check();
  story.PowerCut();
  story.Open();
  if (::testing::Test::HasFatalFailure()) return;
  story.Check();
  ASSERT_THAT(story.ActAll(), IsOk());
  story.Check();
}

TEST(FaultsTest, EveryFailedWriteOfAPackIsAnErrorAndNothingElse) {
  using Fault = FaultyFiles::Fault;
  const int64_t sites = CountSites(false);
  ASSERT_GT(sites, 20);
  const int step = testing::ByTier(9, 1, 1);
  for (const Fault fault : {Fault::kNoSpace, Fault::kIo, Fault::kShortWrite, Fault::kSyncFails}) {
    for (int site = static_cast<int>(fault) % step; site < sites; site += step) {
      FailAt([&](Story& story) { story.test().files().FailNth(fault, site); });
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "fault " << static_cast<int>(fault) << " at " << site;
        return;
      }
    }
  }
}

TEST(FaultsTest, EveryFailedWriteOfTheIndexIsAnErrorAndNothingElse) {
  const int64_t sites = CountSites(true);
  ASSERT_GT(sites, 20);
  const int step = testing::ByTier(17, 1, 1);
  for (const FaultyEnv::Fault fault : {FaultyEnv::Fault::kNoSpace, FaultyEnv::Fault::kIo}) {
    for (int site = static_cast<int>(fault); site < sites; site += step) {
      FailAt([&](Story& story) { story.env().FailNth(fault, site); });
      if (::testing::Test::HasFailure()) {
        ADD_FAILURE() << "fault " << static_cast<int>(fault) << " at " << site;
        return;
      }
    }
  }
}

}  // namespace
}  // namespace graft::fileservice
