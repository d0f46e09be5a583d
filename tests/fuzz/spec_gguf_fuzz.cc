// A GGUF file of any bytes is refused or is read in full.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "worker/spec/load.h"
#include "worker/spec/parameter_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const char* bytes = reinterpret_cast<const char*>(data);
  const auto files = graft::spec::FilesInMemory({{"m.gguf", std::string(bytes, size)}});
  const auto model = graft::spec::ReadModel(*files);
  if (!model.ok()) return 0;
  const auto reader = graft::spec::ParameterReader::Open(*files, *model);
  GRAFT_CHECK_OK(reader.status());
  for (const graft::spec::Parameter& p : model->parameters) {
    // What was believed can be read.
    const int64_t count = p.elements() / (p.shape.size() == 3 ? p.shape[0] : 1);
    std::vector<float> values(static_cast<size_t>(count));
    GRAFT_CHECK_OK(
        (*reader)->Read(p, {}, graft::spec::DType::kF32, reinterpret_cast<char*>(values.data())));
  }
  return 0;
}
