#include "worker/model/quantized.h"

#include "worker/model/rows.h"

namespace graft::model {

at::Tensor Widen(const QuantizedMatrix& matrix, at::ScalarType type) {
  int64_t rows = 0;
  for (const QuantizedMatrix::Rows& part : matrix.parts) rows += part.bytes.size(0);
  at::Tensor wide = at::empty({rows, matrix.columns}, at::kFloat);
  float* out = wide.mutable_data_ptr<float>();
  for (const QuantizedMatrix::Rows& part : matrix.parts) {
    const int64_t row_bytes = part.bytes.size(1);
    const auto* bytes = static_cast<const char*>(part.bytes.const_data_ptr());
    ForRows(part.bytes.size(0), matrix.columns, [&](int64_t begin, int64_t end) {
      spec::ToFloat(part.type, bytes + begin * row_bytes, (end - begin) * matrix.columns,
                    out + begin * matrix.columns);
    });
    out += part.bytes.size(0) * matrix.columns;
  }
  return wide.to(type);
}

}  // namespace graft::model
