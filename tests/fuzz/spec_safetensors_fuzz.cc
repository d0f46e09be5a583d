// A safetensors file of any bytes is refused or is read in full.
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "worker/spec/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const char* bytes = reinterpret_cast<const char*>(data);
  const auto source = graft::spec::BytesInMemory(std::string(bytes, size));
  const auto tensors = graft::spec::ReadSafetensorsHeader(*source, "x.safetensors");
  if (!tensors.ok()) return 0;
  for (const auto& [name, info] : *tensors) {
    // What was believed can be read.
    std::string data(static_cast<size_t>(info.bytes), '\0');
    GRAFT_CHECK_OK(source->ReadAt(info.offset, info.bytes, data.data()));
  }
  return 0;
}
