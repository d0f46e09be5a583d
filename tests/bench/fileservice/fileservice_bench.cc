// fileservice_bench ADDRESS FOLDER MIB: put v1 (incompressible), put v2 (1 % overwritten in runs of
// 100 KiB, 17 bytes inserted near the start), get v2. One JSON line each: seconds, MiB/s, bytes
// moved.
#include <sys/resource.h>

#include <cstdlib>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "fileservice/transfer/client.h"

namespace graft::fileservice {
namespace {

constexpr size_t kRunBytes = 100 << 10;
constexpr size_t kInsertAt = 1 << 20;

double CpuSeconds() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void Report(absl::string_view what, absl::Time began, double cpu_began, size_t bytes,
            const Progress& totals) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - began);
  const double mib = static_cast<double>(bytes) / (1 << 20);
  std::cout << Json::MakeObject()
                   .Set("case", what)
                   .Set("seconds", seconds)
                   .Set("mib_per_s", mib / seconds)
                   .Set("client_cpu_s_per_gib", (CpuSeconds() - cpu_began) / mib * 1024)
                   .Set("moved_bytes", totals.moved_bytes)
                   .Set("saved_bytes", totals.saved_bytes)
                   .Dump()
            << std::endl;
}

void Run(const std::string& address, const std::string& folder, size_t mib) {
  SeededRandom random(1);
  std::string content = random.Bytes(mib << 20);
  const std::string in = folder + "/in";
  GRAFT_CHECK_OK(MakeDirectories(in));
  GRAFT_CHECK_OK(WriteFileAtomically(in + "/file.bin", content));
  Client::Options options;
  options.address = address;
  options.insecure = true;
  auto client = Client::Connect(options);
  GRAFT_CHECK(client.ok()) << client.status().ToString();
  const std::string fileset = "workspaces/bench/filesets/file";

  absl::Time began = absl::Now();
  double cpu = CpuSeconds();
  auto put = (*client)->UploadFolder(in, fileset);
  GRAFT_CHECK(put.ok()) << put.status().ToString();
  Report("put v1", began, cpu, content.size(), put->totals);

  for (size_t i = 0; i < mib / 10; ++i) {
    content.replace(random.Uniform(content.size() - kRunBytes), kRunBytes, random.Bytes(kRunBytes));
  }
  content.insert(kInsertAt, "seventeen bytes!!");
  GRAFT_CHECK_OK(WriteFileAtomically(in + "/file.bin", content));
  began = absl::Now();
  cpu = CpuSeconds();
  put = (*client)->UploadFolder(in, fileset);
  GRAFT_CHECK(put.ok()) << put.status().ToString();
  Report("put v2", began, cpu, content.size(), put->totals);

  began = absl::Now();
  cpu = CpuSeconds();
  const auto get = (*client)->DownloadVersion(put->version, folder + "/out");
  GRAFT_CHECK(get.ok()) << get.status().ToString();
  Report("get v2 to a file, verified, synced", began, cpu, content.size(), get->totals);
  GRAFT_CHECK(*ReadFile(folder + "/out/file.bin", int64_t{1} << 40) == content)
      << "what came back is not what went up";
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: fileservice_bench ADDRESS FOLDER MIB\n";
    return 2;
  }
  graft::fileservice::Run(argv[1], argv[2], static_cast<size_t>(std::atol(argv[3])));
  return 0;
}
