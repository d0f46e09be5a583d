// Dataset files from hostile bytes. The first byte chooses the ending and the format; the rest is
// the file. Every good row must be readable again, every bad one must have a place.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/file.h"
#include "worker/data/dataset/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using graft::data::Dataset;
  using graft::data::RowFormat;
  static constexpr const char* kEndings[] = {".jsonl", ".json", ".csv"};
  static const std::string* const folder = [] {
    static std::string pattern = "/tmp/dataset_fuzz_XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    std::atexit([] { graft::RemoveTree(pattern).IgnoreError(); });
    return &pattern;
  }();
  if (size == 0) return 0;
  const std::string path = *folder + "/rows" + kEndings[data[0] % 3];
  const absl::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (!graft::WriteFileAtomically(path, bytes, {.sync = false}).ok()) std::abort();
  graft::data::DatasetOptions options;
  options.format = static_cast<RowFormat>(data[0] / 3 % 5);
  options.on_bad_row = graft::data::OnBadRow::kSkip;
  if (data[0] / 15 % 2 == 1) options.prompt_template = "{question} {{x}}";
  const auto dataset = Dataset::Open({path}, options);
  if (!dataset.ok()) return 0;
  for (int64_t i = 0; i < dataset->size(); ++i) {
    if (!dataset->ReadRow(i).ok()) std::abort();
  }
  for (const auto& problem : dataset->report().problems) {
    if (problem.line < 1 || problem.found.empty()) std::abort();
  }
  return 0;
}
