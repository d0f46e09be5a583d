// gMock matchers for absl::Status and StatusOr, which Debian's Abseil lacks. For tests alone.
//   EXPECT_THAT(Parse("{"), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 1")));
//   ASSERT_THAT(store.Commit(batch), IsOk());
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"

namespace graft {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& statusor) {
  return statusor.status();
}

MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

MATCHER_P(StatusIs, code, "has status " + absl::StatusCodeToString(code)) {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code;
}

MATCHER_P2(StatusIs, code, message, "has status " + absl::StatusCodeToString(code)) {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()),
                                       result_listener);
}

}  // namespace graft

#define GRAFT_ASSERT_OK_AND_ASSIGN(lhs, expr) \
  GRAFT_ASSERT_OK_AND_ASSIGN_(graft_assert_, __LINE__, lhs, expr)
#define GRAFT_ASSERT_OK_AND_ASSIGN_(prefix, line, lhs, expr) \
  GRAFT_ASSERT_OK_AND_ASSIGN__(prefix, line, lhs, expr)
#define GRAFT_ASSERT_OK_AND_ASSIGN__(prefix, line, lhs, expr)         \
  auto prefix##line = (expr);                                         \
  ASSERT_TRUE(prefix##line.ok()) << prefix##line.status().ToString(); \
  lhs = *std::move(prefix##line)
