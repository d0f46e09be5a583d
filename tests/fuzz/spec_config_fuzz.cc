// A config.json of any bytes is refused or describes a model.
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/json.h"
#include "worker/spec/load.h"
#include "worker/spec/rope.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const char* bytes = reinterpret_cast<const char*>(data);
  const auto json = graft::Json::Parse(absl::string_view(bytes, size), {.allow_nan = true});
  if (!json.ok()) return 0;
  const auto model = graft::spec::DescribeConfig(*json);
  if (!model.ok()) return 0;
  GRAFT_CHECK(model->facts.parameters > 0);
  for (const graft::spec::RopeSpec& rope : model->spec.ropes) {
    GRAFT_CHECK(graft::spec::RopeInverseFrequencies(rope, 1 << 20).size() ==
                static_cast<size_t>(rope.rotary_dim / 2));
  }
  return 0;
}
