#include "worker/cuda/interface_name.h"

#include "gtest/gtest.h"

namespace graft::cuda {
namespace {

TEST(InterfaceOfTest, IsTheOneThatHasTheAddress) {
  EXPECT_EQ(InterfaceOf("127.0.0.1"), "lo");
  EXPECT_EQ(InterfaceOf("203.0.113.7"), "");  // of documents alone
  EXPECT_EQ(InterfaceOf("node-1"), "");
}

}  // namespace
}  // namespace graft::cuda
