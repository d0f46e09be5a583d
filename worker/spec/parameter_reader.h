// Reads the numbers of parameters from a model's files, whatever they are stored in: any floating
// type, GGUF's blocks, fused or transposed tensors, rows in llama.cpp's order, one file or a
// hundred. Each rank asks for its own block of rows and columns, and no other bytes are touched.
//
//   GRAFT_ASSIGN_OR_RETURN(auto reader, ParameterReader::Open(files, model));
//   std::vector<char> bytes(rows * columns * 2);
//   GRAFT_RETURN_IF_ERROR(reader->Read(*model.Find("layers.0.attn.q.weight"), {.row_end = rows},
//                                      DType::kBF16, bytes.data()));
//
// Safe to call from any thread at once. `files` and `model` must outlive it.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/spec/load.h"

namespace graft::spec {

// A part of a parameter. Of [experts, out, in] `expert` picks the matrix, of a vector [n] the rows
// are its numbers and there is one column. An end of 0 means all.
struct ParameterBlock {
  int64_t expert = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
};

class ParameterReader {
 public:
  static absl::StatusOr<std::unique_ptr<ParameterReader>> Open(const ModelFiles& files,
                                                               const ModelDescription& model);
  virtual ~ParameterReader() = default;
  // Writes the block, row after row, as `type` (kF32, kF16 or kBF16) to `out`. INVALID_ARGUMENT for
  // a block outside of the parameter.
  virtual absl::Status Read(const Parameter& parameter, const ParameterBlock& block, DType type,
                            char* out) const = 0;
  // The bytes of a parameter that is one whole stored tensor of a mapped file, as they are; empty
  // where it is not.
  virtual absl::string_view Mapped(const Parameter& parameter) const = 0;
  // The type its numbers are stored in.
  virtual DType StoredType(const Parameter& parameter) const = 0;
  // The stored bytes of one row (of `expert`), in the parameter's order of rows, for quantised
  // tensors that stay in their blocks; ToFloat(StoredType, ...) widens them. UNIMPLEMENTED where
  // rows are not contiguous in the file (transposed, gpt_oss' own MXFP4) or need an addition.
  virtual absl::StatusOr<absl::string_view> MappedRow(const Parameter& parameter, int64_t expert,
                                                      int64_t row) const = 0;
};

}  // namespace graft::spec
