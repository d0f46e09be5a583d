// GRAFT_CHECK(condition) << "why": ends the process when an invariant of the program is broken.
// For bugs, never for input. Stays on in release builds.
#pragma once

#include <sstream>

namespace graft::internal {

class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return message_; }

 private:
  std::ostringstream message_;
};

// Turns the streaming expression into void, so that both arms of ?: agree.
struct CheckVoidify {
  void operator&(std::ostream&) const {}
};

}  // namespace graft::internal

#define GRAFT_CHECK(condition)              \
  (__builtin_expect(!!(condition), 1))      \
      ? (void)0                             \
      : ::graft::internal::CheckVoidify() & \
            ::graft::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define GRAFT_CHECK_OK(expr)                                               \
  do {                                                                     \
    const ::absl::Status graft_check_status = (expr);                      \
    GRAFT_CHECK(graft_check_status.ok()) << graft_check_status.ToString(); \
  } while (false)
