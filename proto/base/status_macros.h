// GRAFT_RETURN_IF_ERROR(expr): returns the status of `expr` from the calling function unless OK.
// GRAFT_ASSIGN_OR_RETURN(lhs, expr): assigns the value of a StatusOr, or returns its status.
// GRAFT_ASSIGN_OR_RETURN(auto x, Parse(text));
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define GRAFT_STATUS_CONCAT_(a, b) a##b
#define GRAFT_STATUS_CONCAT(a, b) GRAFT_STATUS_CONCAT_(a, b)

#define GRAFT_RETURN_IF_ERROR(expr)              \
  do {                                           \
    ::absl::Status graft_status = (expr);        \
    if (!graft_status.ok()) return graft_status; \
  } while (false)

#define GRAFT_ASSIGN_OR_RETURN(lhs, expr) \
  GRAFT_ASSIGN_OR_RETURN_(GRAFT_STATUS_CONCAT(graft_statusor_, __LINE__), lhs, expr)
#define GRAFT_ASSIGN_OR_RETURN_(statusor, lhs, expr) \
  auto statusor = (expr);                            \
  if (!statusor.ok()) return statusor.status();      \
  lhs = *std::move(statusor)
