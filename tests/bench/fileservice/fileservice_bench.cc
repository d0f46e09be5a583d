// One transfer of a file through a daemon, for put_get.sh:
//   fileservice_bench put ADDRESS FILE FILESET    uploads and publishes
//   fileservice_bench get ADDRESS VERSION FOLDER  downloads, verified and synced
//   fileservice_bench fsync FILE                  waits until the file is on the disk
//   fileservice_bench cold PATH...                drops files, and all below folders, from the page
//   cache
// Transfers print one JSON line: seconds, CPU seconds of this process, bytes moved and saved.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "fileservice/transfer/allocator.h"
#include "fileservice/transfer/client.h"

namespace graft::fileservice {
namespace {

double CpuSeconds() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::unique_ptr<Client> ConnectTo(const std::string& address) {
  Client::Options options;
  options.address = address;
  options.insecure = true;
  auto client = Client::Connect(options);
  GRAFT_CHECK_OK(client.status());
  return *std::move(client);
}

void Report(absl::Time began, const Progress& totals) {
  std::cout << Json::MakeObject()
                   .Set("seconds", absl::ToDoubleSeconds(absl::Now() - began))
                   .Set("cpu_seconds", CpuSeconds())
                   .Set("moved_bytes", totals.moved_bytes)
                   .Set("saved_bytes", totals.saved_bytes)
                   .Dump()
            << std::endl;
}

void Put(const std::string& address, const std::string& file, const std::string& fileset) {
  const absl::Time began = absl::Now();
  const auto put = ConnectTo(address)->UploadFolder(file, fileset);
  GRAFT_CHECK_OK(put.status());
  Report(began, put->totals);
}

void Get(const std::string& address, const std::string& version, const std::string& folder) {
  const absl::Time began = absl::Now();
  const auto get = ConnectTo(address)->DownloadVersion(version, folder);
  GRAFT_CHECK_OK(get.status());
  Report(began, get->totals);
}

void OnFile(const std::string& path, bool drop) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  GRAFT_CHECK(fd.valid()) << path;
  GRAFT_CHECK(fsync(fd.get()) == 0) << path;
  if (drop) GRAFT_CHECK(posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) == 0) << path;
}

void Cold(const std::string& path) {
  if (!std::filesystem::is_directory(path)) return OnFile(path, /*drop=*/true);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) OnFile(entry.path().string(), /*drop=*/true);
  }
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  using namespace graft::fileservice;
  TuneAllocatorForTransfers();
  const std::vector<std::string> args(argv + 1, argv + argc);
  const std::string mode = args.empty() ? "" : args[0];
  if (mode == "put" && args.size() == 4) {
    Put(args[1], args[2], args[3]);
  } else if (mode == "get" && args.size() == 4) {
    Get(args[1], args[2], args[3]);
  } else if (mode == "fsync" && args.size() == 2) {
    OnFile(args[1], /*drop=*/false);
  } else if (mode == "cold") {
    for (size_t i = 1; i < args.size(); ++i) Cold(args[i]);
  } else {
    std::cerr << "usage: fileservice_bench put|get|fsync|cold ..., see the head of its source\n";
    return 2;
  }
  return 0;
}
