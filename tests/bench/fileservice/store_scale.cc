// store_scale fill DIR CHUNKS: a store of so many chunks of 64 bytes.
// store_scale open DIR CHUNKS: how long opening it and finding a chunk take, and what memory.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/random.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "tests/bench/fileservice/store_figures.h"

namespace graft::fileservice {
namespace {

constexpr int kLookUps = 50'000;
constexpr int kMisses = 50'000;

std::string Content(int64_t number) {
  std::string content = absl::StrCat("chunk ", number, " ");
  content.resize(64, '.');
  return content;
}

struct OpenStore {
  explicit OpenStore(const std::string& folder) {
    auto opened = Database::Open(folder + "/index", {.watermark_dir = folder + "/watermark"});
    GRAFT_CHECK_OK(opened.status());
    db = *std::move(opened);
    ChunkStore::Options options;
    options.directory = folder + "/packs";
    auto made = ChunkStore::Open(*db, RealFiles(), clock, options);
    GRAFT_CHECK_OK(made.status());
    store = *std::move(made);
    catalog = std::make_unique<Catalog>(*db, *store, clock, random, Catalog::Options());
    GRAFT_CHECK_OK(catalog->Open());
  }
  RealClock clock;
  SecureRandom random;
  std::unique_ptr<Database> db;
  std::unique_ptr<ChunkStore> store;
  std::unique_ptr<Catalog> catalog;
};

void Fill(const std::string& folder, int64_t chunks) {
  OpenStore open(folder);
  ChunkStore::Ticket last = 0;
  for (int64_t i = 0; i < chunks; ++i) {
    const std::string raw = Content(i);
    const auto put = open.store->Put({.id = Sha256::Of(raw), .raw = raw, .verified = true});
    GRAFT_CHECK_OK(put.status());
    last = put->ticket;
  }
  GRAFT_CHECK_OK(open.store->WaitDurable(last));
}

double ResidentMib() {
  int64_t pages = 0;
  int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE)) / (1 << 20);
}

// Microseconds a look-up, one after the other.
double TimeFinds(const ChunkStore& store, int count, const std::function<int64_t()>& pick,
                 bool there) {
  std::vector<ChunkId> ids;
  for (int i = 0; i < count; ++i) ids.push_back(Sha256::Of(Content(pick())));
  const absl::Time began = absl::Now();
  for (const ChunkId& id : ids) GRAFT_CHECK(store.Find(id).ok() == there);
  return absl::ToDoubleMicroseconds(absl::Now() - began) / count;
}

int Open(const std::string& folder, int64_t chunks) {
  const absl::Time began = absl::Now();
  OpenStore open(folder);
  bool ok =
      PrintAtMost({"store_scale", "open", absl::ToDoubleSeconds(absl::Now() - began), "s", 5});
  SeededRandom random(7);
  const auto known = [&] {
    return static_cast<int64_t>(random.Uniform(static_cast<uint64_t>(chunks)));
  };
  ok &=
      PrintAtMost({"store_scale", "hit", TimeFinds(*open.store, kLookUps, known, true), "us", 20});
  const auto unknown = [&] { return chunks + known(); };
  ok &= PrintAtMost(
      {"store_scale", "miss", TimeFinds(*open.store, kMisses, unknown, false), "us", 20});
  ok &= PrintAtMost({"store_scale", "rss", ResidentMib(), "MiB", 300e6 / (1 << 20)});
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  const std::string what = argc == 4 ? argv[1] : "";
  if (what == "fill") {
    graft::fileservice::Fill(argv[2], std::atol(argv[3]));
    return 0;
  }
  if (what == "open") return graft::fileservice::Open(argv[2], std::atol(argv[3]));
  std::cerr << "usage: store_scale fill|open DIR CHUNKS\n";
  return 2;
}
