// Rules that the contract keeps: comments on everything, names, annotations, defaults that comment
// and option agree on, a role for every method. One function, pure: descriptors in, findings out.
//
//   absl::StatusOr<google::protobuf::FileDescriptorSet> set = ReadDescriptorSet(path);
//   for (const std::string& finding : LintContract(*set)) ...
//
// Files outside of the package `graft` are read for their types and not judged.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"

namespace graft::tidy {

// NOT_FOUND when there is no file, INVALID_ARGUMENT when it is no descriptor set.
absl::StatusOr<google::protobuf::FileDescriptorSet> ReadDescriptorSet(const std::string& path);

// The files of a set, linked to one another.
class Contract {
 public:
  // The set must be whole: every import in it, before its importers.
  explicit Contract(const google::protobuf::FileDescriptorSet& set);
  // The files of the package `graft` and those below it, in the order of the set.
  const std::vector<const google::protobuf::FileDescriptor*>& files() const { return files_; }

 private:
  std::unique_ptr<google::protobuf::DescriptorPool> pool_;
  std::vector<const google::protobuf::FileDescriptor*> files_;
};

// What breaks a rule, a line each: `graft/v1/job.proto:12: graft.v1.Job.name: ...`. Empty: all is
// well.
std::vector<std::string> LintContract(const google::protobuf::FileDescriptorSet& set);

}  // namespace graft::tidy
