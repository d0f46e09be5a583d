// proto_lint SET SNAPSHOT [--update]
//
// Prints what breaks a rule of the contract or an earlier contract; exit 1 if anything does. With
// --update, additions are written into the snapshot; breaks never are.
#include <iostream>
#include <string>

#include "base/file.h"
#include "tests/tidy/proto_lint.h"
#include "tests/tidy/proto_snapshot.h"

namespace graft::tidy {
namespace {

int Run(const std::string& set_path, const std::string& snapshot_path, bool update) {
  const auto set = ReadDescriptorSet(set_path);
  if (!set.ok()) {
    std::cerr << set.status() << "\n";
    return 2;
  }
  const auto stored = ReadFile(snapshot_path);
  if (!stored.ok() && !absl::IsNotFound(stored.status())) {
    std::cerr << stored.status() << "\n";
    return 2;
  }
  const Snapshot before = ParseSnapshot(stored.ok() ? *stored : "");
  const Snapshot now = TakeSnapshot(*set);
  bool ok = true;
  for (const std::string& finding : LintContract(*set)) {
    std::cerr << finding << "\n";
    ok = false;
  }
  for (const std::string& line : Breaks(before, now)) {
    std::cerr << "gone or changed, reserve number and name instead: " << line << "\n";
    ok = false;
  }
  if (!ok) return 1;
  if (!update) return 0;
  const absl::Status written = WriteFileAtomically(snapshot_path, FormatSnapshot(now));
  if (!written.ok()) std::cerr << written << "\n";
  return written.ok() ? 0 : 2;
}

}  // namespace
}  // namespace graft::tidy

int main(int argc, char** argv) {
  const bool update = argc == 4 && std::string(argv[3]) == "--update";
  if (argc != 3 && !update) {
    std::cerr << "usage: proto_lint SET SNAPSHOT [--update]\n";
    return 2;
  }
  return graft::tidy::Run(argv[1], argv[2], update);
}
