// A fileservice that says yes, for tests and benchmarks of the scheduler alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/mutex.h"
#include "scheduler/service/fileservice_link.h"

namespace graft::scheduler {

// Every fileset has version 1; what is pinned and deleted is kept for the test to look at.
class FakeFiles final : public FileserviceLink {
 public:
  absl::StatusOr<FilesetVersion> Resolve(const std::string& name) override {
    if (absl::EndsWith(name, "/absent")) return absl::NotFoundError(name);
    const bool versioned = absl::StrContains(name, "/versions/");
    return FilesetVersion{versioned ? name : name + "/versions/1", "sha256:00", 10};
  }
  absl::StatusOr<int64_t> FreeBytes() override { return free_bytes.load(); }
  absl::Status PutPin(const std::string& version, const std::string& holder) override {
    MutexLock lock(mu);
    pins.push_back({version, holder, absl::Now() - absl::Hours(2)});
    return absl::OkStatus();
  }
  absl::Status DeletePin(const std::string& version, const std::string& holder) override {
    MutexLock lock(mu);
    pins.erase(std::remove_if(pins.begin(), pins.end(),
                              [&](const PinInfo& pin) {
                                return pin.version == version && pin.holder == holder;
                              }),
               pins.end());
    return absl::OkStatus();
  }
  absl::Status DeleteVersion(const std::string& version) override {
    MutexLock lock(mu);
    for (const PinInfo& pin : pins) {
      if (pin.version == version) return absl::FailedPreconditionError(pin.holder);
    }
    deleted.insert(version);
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<PinInfo>> ListPins() override {
    MutexLock lock(mu);
    return pins;
  }
  absl::Status DeleteFilesets(const std::string& workspace) override {
    MutexLock lock(mu);
    emptied.insert(workspace);
    return absl::OkStatus();
  }
  absl::Status EnsureFileset(const std::string&, int) override { return absl::OkStatus(); }
  absl::StatusOr<std::string> OpenSession(const std::string& fileset) override {
    MutexLock lock(mu);
    return absl::StrCat(fileset, "/uploads/u", ++sessions);
  }
  absl::StatusOr<FilesetVersion> Publish(const std::string& session, const std::string&,
                                         const std::string&) override {
    MutexLock lock(mu);
    std::string& version = published[session];
    if (version.empty()) {
      const std::string fileset = session.substr(0, session.find("/uploads/"));
      version = absl::StrCat(fileset, "/versions/", ++versions[fileset]);
    }
    return FilesetVersion{version, "sha256:11", 5};
  }
  absl::StatusOr<std::unique_ptr<spec::ModelFiles>> OpenModel(const std::string& version) override {
    MutexLock lock(mu);
    const auto it = models.find(version);
    if (it == models.end()) return absl::UnavailableError("no model files here");
    return spec::FilesInMemory(it->second);
  }

  Mutex mu;
  std::vector<PinInfo> pins;
  std::map<std::string, std::string> published;  // versions by session
  std::map<std::string, int> versions;           // by fileset
  std::set<std::string> emptied;                 // workspaces
  std::set<std::string> deleted;                 // versions
  std::map<std::string, std::vector<std::pair<std::string, std::string>>> models;
  int sessions = 0;
  std::atomic<int64_t> free_bytes{int64_t{1} << 50};
};

}  // namespace graft::scheduler
