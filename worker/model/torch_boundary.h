// Where torch's exceptions end: everything above speaks absl::Status.
//
//   GRAFT_RETURN_IF_ERROR(TorchCall("forward", [&] { loss = Forward(); }));
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>

#include <new>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace graft::model {

// RESOURCE_EXHAUSTED when memory did not suffice, INTERNAL for everything else that torch throws.
template <typename F>
absl::Status TorchCall(absl::string_view what, const F& body) {
  const auto failed = [&](absl::string_view why) {
    const bool memory = absl::StrContains(why, "not enough memory") ||
                        absl::StrContains(why, "out of memory") ||
                        absl::StrContains(why, "can't allocate memory");
    const std::string message = absl::StrCat(what, ": ", why);
    return memory ? absl::ResourceExhaustedError(message) : absl::InternalError(message);
  };
  try {
    body();
  } catch (const c10::Error& error) {
    return failed(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return failed("out of memory");
  } catch (const std::exception& error) {
    return failed(error.what());
  }
  return absl::OkStatus();
}

}  // namespace graft::model
