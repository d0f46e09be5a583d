// The sample configurations that are installed must start the daemons they are written for.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "fileservice/fileservice_config.pb.h"
#include "gtest/gtest.h"
#include "rpc/config.h"
#include "scheduler/scheduler_config.pb.h"
#include "worker/agent/worker_config.pb.h"

namespace graft {
namespace {

std::string Sample(absl::string_view name) {
  return JoinPath(std::getenv("GRAFT_SOURCE_DIR"), absl::StrCat("deploy/configs/", name));
}

TEST(SampleConfigsTest, TheSchedulersIsReadStrictly) {
  scheduler::config::SchedulerConfig config;
  ASSERT_THAT(rpc::ReadConfig(Sample("scheduler.json"), config), IsOk());
  EXPECT_FALSE(config.data().empty());
  EXPECT_FALSE(config.tls_certificate().empty());
  EXPECT_FALSE(config.insecure());
}

TEST(SampleConfigsTest, TheFileservicesIsReadStrictly) {
  fileservice::config::FileserviceConfig config;
  ASSERT_THAT(rpc::ReadConfig(Sample("fileservice.json"), config), IsOk());
  EXPECT_FALSE(config.data().empty());
  EXPECT_FALSE(config.tls_certificate().empty());
  EXPECT_FALSE(config.scheduler().empty());
  EXPECT_FALSE(config.insecure());
}

TEST(SampleConfigsTest, TheWorkersIsReadStrictly) {
  worker::config::WorkerConfig config;
  ASSERT_THAT(rpc::ReadConfig(Sample("worker.textproto"), config), IsOk());
  EXPECT_FALSE(config.scheduler_address().empty());
  EXPECT_FALSE(config.state_folder().empty());
  EXPECT_FALSE(config.insecure());
}

}  // namespace
}  // namespace graft
