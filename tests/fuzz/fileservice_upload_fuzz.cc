// Hostile messages of the bulk streams, in one piece and cut anywhere: both ways say the same, and
// what is accepted adds up.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "fileservice/service/upload_message.h"

using graft::fileservice::ParseUpload;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const size_t cut = data[0] % size;
  const absl::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const absl::string_view whole[] = {input};
  const absl::string_view parts[] = {input.substr(0, cut), input.substr(cut)};
  const auto one = ParseUpload(whole);
  const auto two = ParseUpload(parts);
  if (one.ok() != two.ok()) std::abort();
  if (!one.ok()) return 0;
  if (one->ids != two->ids || one->sizes != two->sizes || one->held != two->held ||
      one->session != two->session) {
    std::abort();
  }
  graft::fileservice::wire::DataCursor first(one->payload);
  graft::fileservice::wire::DataCursor second(two->payload);
  std::string scratch_one;
  std::string scratch_two;
  for (size_t i = 0, held = 0; i < one->sizes.size(); ++i) {
    if (held < one->held.size() && one->held[held] == i) {
      ++held;
      continue;
    }
    const uint32_t bytes = one->sizes[i];
    if (first.Take(bytes, scratch_one) != second.Take(bytes, scratch_two)) std::abort();
  }
  return 0;
}
