#include "worker/spec/parameter_reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::spec {
namespace {

// Of this many numbers at a time are pieces widened and rounded again.
constexpr int64_t kPieceElements = int64_t{1} << 18;
constexpr int64_t kMxfp4Group = 32;

// A rectangle of a parameter: rows and columns resolved, the expert apart.
struct Rectangle {
  int64_t expert, row_begin, row_end, column_begin, column_end;
  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
};

// A stored matrix and the way from a parameter's rows and columns to its own.
struct StoredMatrix {
  const TensorInfo* info = nullptr;
  const ByteSource* source = nullptr;
  const TensorSlice* slice = nullptr;
  int64_t offset = 0;   // of this matrix in the file
  int64_t columns = 0;  // stored
  int64_t row_bytes = 0;
  int64_t parameter_rows = 0;  // of the parameter's matrix
  bool slices_columns = false;

  // The stored row (or, where it is transposed, column) of the parameter's row.
  int64_t Row(int64_t row) const {
    if (slice->permuted_heads > 0) row = Permuted(row);
    return slice->count > 0 && !slices_columns ? slice->begin + row * slice->step : row;
  }
  int64_t Column(int64_t column) const {
    return slice->count > 0 && slices_columns ? slice->begin + column * slice->step : column;
  }
  // Where llama.cpp put the row `row`: halves (j, i) became pairs (i, j).
  int64_t Permuted(int64_t row) const {
    const int64_t d = parameter_rows / slice->permuted_heads;
    const int64_t head = row / d;
    const int64_t within = row % d;
    const int64_t j = within / (d / 2);
    const int64_t i = within % (d / 2);
    return head * d + 2 * i + j;
  }
};

// The number of trailing dimensions that make one matrix: a vector is a matrix of one column.
struct MatrixShape {
  int64_t experts = 1, rows = 0, columns = 1;
};
MatrixShape ShapeOf(const Parameter& p) {
  switch (p.shape.size()) {
    case 1:
      return {1, p.shape[0], 1};
    case 2:
      return {1, p.shape[0], p.shape[1]};
    default:
      return {p.shape[0], p.shape[1], p.shape[2]};
  }
}

void RoundTo(DType type, double add, float* values, int64_t count, char* out) {
  if (add != 0) {
    for (int64_t i = 0; i < count; ++i) values[i] += static_cast<float>(add);
  }
  FromFloat(type, values, count, out);
}

class Reader final : public ParameterReader {
 public:
  Reader(const ModelDescription& model,
         absl::btree_map<std::string, std::unique_ptr<ByteSource>> files)
      : model_(model), files_(std::move(files)) {}

  absl::Status Read(const Parameter& parameter, const ParameterBlock& block, DType type,
                    char* out) const override {
    if (type != DType::kF32 && type != DType::kF16 && type != DType::kBF16) {
      return absl::InvalidArgumentError(
          absl::StrCat("parameters are read as F32, F16 or BF16, not as ", DTypeName(type)));
    }
    GRAFT_ASSIGN_OR_RETURN(const Rectangle r, Resolve(parameter, block));
    absl::Status status = ReadRectangle(parameter, r, type, out);
    if (status.ok()) return status;
    return absl::Status(status.code(),
                        absl::StrCat("parameter ", parameter.name, ": ", status.message()));
  }

  absl::string_view Mapped(const Parameter& parameter) const override {
    if (parameter.source.size() != 1 || !parameter.source[0].whole()) return {};
    const auto it = model_.tensors.find(parameter.source[0].tensor);
    if (it == model_.tensors.end()) return {};
    const absl::string_view file = files_.find(it->second.file)->second->mapped();
    if (file.empty()) return {};
    return file.substr(static_cast<size_t>(it->second.offset),
                       static_cast<size_t>(it->second.bytes));
  }

  DType StoredType(const Parameter& parameter) const override {
    const TensorSlice& slice = parameter.source[0];
    if (slice.mxfp4_blocks) return DType::kMxfp4;
    const auto it = model_.tensors.find(slice.tensor);
    return it == model_.tensors.end() ? DType::kF32 : it->second.dtype;
  }

  absl::StatusOr<absl::string_view> MappedRow(const Parameter& parameter, int64_t expert,
                                              int64_t row) const override {
    GRAFT_ASSIGN_OR_RETURN(
        const Rectangle r,
        Resolve(parameter, {.expert = expert, .row_begin = row, .row_end = row + 1}));
    const TensorSlice& slice = SliceOf(parameter, r.expert);
    if (slice.transposed || slice.mxfp4_blocks || slice.add != 0) {
      return absl::UnimplementedError(
          absl::StrCat("the rows of ", parameter.name, " do not stand in the file as they are"));
    }
    GRAFT_ASSIGN_OR_RETURN(const StoredMatrix m, MatrixOf(parameter, slice, r.expert));
    const absl::string_view file = m.source->mapped();
    const bool vector = m.info->shape.size() == 1;
    if (file.empty() || m.slices_columns || (vector && IsQuantized(m.info->dtype))) {
      return absl::UnimplementedError(
          absl::StrCat("the rows of ", parameter.name, " are not mapped"));
    }
    return file.substr(static_cast<size_t>(m.offset + m.Row(row) * m.row_bytes),
                       static_cast<size_t>(m.row_bytes));
  }

 private:
  static absl::StatusOr<Rectangle> Resolve(const Parameter& p, const ParameterBlock& block) {
    const MatrixShape shape = ShapeOf(p);
    const Rectangle r{block.expert, block.row_begin, block.row_end > 0 ? block.row_end : shape.rows,
                      block.column_begin, block.column_end > 0 ? block.column_end : shape.columns};
    const bool inside = r.expert >= 0 && r.expert < shape.experts && r.row_begin >= 0 &&
                        r.row_begin <= r.row_end && r.row_end <= shape.rows &&
                        r.column_begin >= 0 && r.column_begin <= r.column_end &&
                        r.column_end <= shape.columns;
    if (inside) return r;
    return absl::InvalidArgumentError(
        absl::StrCat("rows ", r.row_begin, " to ", r.row_end, ", columns ", r.column_begin, " to ",
                     r.column_end, " of matrix ", r.expert, " are not within parameter ", p.name,
                     " of ", shape.experts, " x ", shape.rows, " x ", shape.columns));
  }

  static const TensorSlice& SliceOf(const Parameter& p, int64_t expert) {
    return p.source.size() > 1 ? p.source[static_cast<size_t>(expert)] : p.source[0];
  }

  absl::StatusOr<StoredMatrix> MatrixOf(const Parameter& p, const TensorSlice& slice,
                                        int64_t expert) const {
    const auto it = model_.tensors.find(slice.tensor);
    if (it == model_.tensors.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor ", slice.tensor, " is not in the model's files"));
    }
    const TensorInfo& info = it->second;
    StoredMatrix m;
    m.info = &info;
    m.source = files_.find(info.file)->second.get();
    m.slice = &slice;
    m.parameter_rows = ShapeOf(p).rows;
    const size_t rank = info.shape.size();
    // A bias of experts [experts, n] is a matrix whose columns may be sliced.
    m.slices_columns = slice.count > 0 && rank == 2 && slice.axis == 1;
    m.columns = rank == 1 ? 1 : info.shape[rank - 1];
    m.row_bytes = rank == 1 ? BlockBytes(info.dtype) : BytesOf(info.dtype, m.columns);
    m.offset = info.offset;
    if (rank == 3) m.offset += expert * info.shape[1] * m.row_bytes;
    return m;
  }

  absl::Status ReadRectangle(const Parameter& p, const Rectangle& r, DType type, char* out) const {
    const TensorSlice& slice = SliceOf(p, r.expert);
    if (slice.mxfp4_blocks) return ReadMxfp4(p, slice, r, type, out);
    GRAFT_ASSIGN_OR_RETURN(const StoredMatrix m, MatrixOf(p, slice, r.expert));
    if (slice.transposed) return ReadTransposed(m, r, type, out);
    if (p.shape.size() == 1) return ReadVector(m, r, type, out);
    return ReadRows(m, r, type, out);
  }

  // Rows that follow one another in the file are read together.
  static absl::Status ReadRows(const StoredMatrix& m, const Rectangle& r, DType type, char* out) {
    if (r.rows() == 0 || r.columns() == 0) return absl::OkStatus();
    const int64_t block = BlockElements(m.info->dtype);
    const int64_t first = m.Column(r.column_begin) / block * block;
    const int64_t last = std::min(m.columns, (m.Column(r.column_end - 1) / block + 1) * block);
    const int64_t span = last - first;
    const bool as_is = m.info->dtype == type && m.slice->add == 0 && !m.slices_columns;
    const int64_t out_row_bytes = r.columns() * BlockBytes(type);
    std::vector<char> bytes;
    std::vector<float> wide;
    std::vector<float> picked(static_cast<size_t>(r.columns()));
    for (int64_t row = r.row_begin; row < r.row_end;) {
      const int64_t run = span == m.columns ? RunLength(m, row, r.row_end) : 1;
      const int64_t at = m.offset + m.Row(row) * m.row_bytes + BytesOf(m.info->dtype, first);
      char* to = out + (row - r.row_begin) * out_row_bytes;
      row += run;
      if (as_is) {  // the type has blocks of one, so that first is the first column
        GRAFT_RETURN_IF_ERROR(m.source->ReadAt(at, run * out_row_bytes, to));
        continue;
      }
      bytes.resize(static_cast<size_t>(BytesOf(m.info->dtype, run * span)));
      wide.resize(static_cast<size_t>(run * span));
      GRAFT_RETURN_IF_ERROR(m.source->ReadAt(at, static_cast<int64_t>(bytes.size()), bytes.data()));
      ToFloat(m.info->dtype, bytes.data(), run * span, wide.data());
      for (int64_t i = 0; i < run; ++i, to += out_row_bytes) {
        for (int64_t c = 0; c < r.columns(); ++c) {
          picked[static_cast<size_t>(c)] =
              wide[static_cast<size_t>(i * span + m.Column(r.column_begin + c) - first)];
        }
        RoundTo(type, m.slice->add, picked.data(), r.columns(), to);
      }
    }
    // A rank's columns touch every page of the tensor, row by row.
    if (span < m.columns) m.source->LetGo(m.info->offset, m.info->bytes);
    return absl::OkStatus();
  }

  // How many rows from `row` on stand in the file one after the other.
  static int64_t RunLength(const StoredMatrix& m, int64_t row, int64_t end) {
    const int64_t most = std::max<int64_t>(1, kPieceElements / m.columns);
    int64_t run = 1;
    while (row + run < end && run < most && m.Row(row + run) == m.Row(row) + run) ++run;
    return run;
  }

  // Its numbers are rows of one column.
  static absl::Status ReadVector(const StoredMatrix& m, const Rectangle& r, DType type, char* out) {
    if (r.rows() == 0 || r.columns() == 0) return absl::OkStatus();
    std::vector<char> bytes(static_cast<size_t>(m.info->bytes));
    GRAFT_RETURN_IF_ERROR(m.source->ReadAt(m.info->offset, m.info->bytes, bytes.data()));
    std::vector<float> wide(static_cast<size_t>(m.info->elements()));
    ToFloat(m.info->dtype, bytes.data(), m.info->elements(), wide.data());
    std::vector<float> picked(static_cast<size_t>(r.rows()));
    for (int64_t i = 0; i < r.rows(); ++i) {
      picked[static_cast<size_t>(i)] = wide[static_cast<size_t>(m.Row(r.row_begin + i))];
    }
    RoundTo(type, m.slice->add, picked.data(), r.rows(), out);
    return absl::OkStatus();
  }

  // The parameter's columns are the stored rows.
  static absl::Status ReadTransposed(const StoredMatrix& m, const Rectangle& r, DType type,
                                     char* out) {
    if (r.rows() == 0 || r.columns() == 0) return absl::OkStatus();
    if (IsQuantized(m.info->dtype)) {
      return absl::UnimplementedError("a quantised tensor that is stored transposed is not read");
    }
    const int64_t first = m.Row(r.row_begin);
    const int64_t span = m.Row(r.row_end - 1) + 1 - first;
    std::vector<char> bytes(static_cast<size_t>(BytesOf(m.info->dtype, span)));
    std::vector<float> wide(static_cast<size_t>(span));
    const int64_t element = BlockBytes(type);
    for (int64_t c = r.column_begin; c < r.column_end; ++c) {
      const int64_t at = m.offset + c * m.row_bytes + BytesOf(m.info->dtype, first);
      GRAFT_RETURN_IF_ERROR(m.source->ReadAt(at, static_cast<int64_t>(bytes.size()), bytes.data()));
      ToFloat(m.info->dtype, bytes.data(), span, wide.data());
      for (int64_t row = r.row_begin; row < r.row_end; ++row) {
        char* to = out + ((row - r.row_begin) * r.columns() + c - r.column_begin) * element;
        RoundTo(type, m.slice->add, &wide[static_cast<size_t>(m.Row(row) - first)], 1, to);
      }
    }
    m.source->LetGo(m.info->offset, m.info->bytes);
    return absl::OkStatus();
  }

  // gpt_oss: of each row (an output of the expert) groups of 32 numbers in 16 bytes, the lower half
  // of a byte first, and a power of two for each group.
  absl::Status ReadMxfp4(const Parameter& p, const TensorSlice& slice, const Rectangle& r,
                         DType type, char* out) const {
    const auto blocks = model_.tensors.find(slice.tensor + "_blocks");
    const auto scales = model_.tensors.find(slice.tensor + "_scales");
    if (blocks == model_.tensors.end() || scales == model_.tensors.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor ", slice.tensor, "_blocks or _scales is not in the model's files"));
    }
    const int64_t stored_rows = blocks->second.shape[1];
    const int64_t groups = blocks->second.shape[2];
    const ByteSource& block_file = *files_.find(blocks->second.file)->second;
    const ByteSource& scale_file = *files_.find(scales->second.file)->second;
    StoredMatrix m;
    m.slice = &slice;
    m.parameter_rows = ShapeOf(p).rows;
    std::vector<char> packed(static_cast<size_t>(groups * 16));
    std::vector<char> powers(static_cast<size_t>(groups));
    std::vector<float> wide(static_cast<size_t>(groups * kMxfp4Group));
    for (int64_t row = r.row_begin; row < r.row_end; ++row) {
      const int64_t stored = r.expert * stored_rows + m.Row(row);
      GRAFT_RETURN_IF_ERROR(block_file.ReadAt(blocks->second.offset + stored * groups * 16,
                                              groups * 16, packed.data()));
      GRAFT_RETURN_IF_ERROR(
          scale_file.ReadAt(scales->second.offset + stored * groups, groups, powers.data()));
      WidenGroups(packed, powers, wide.data());
      RoundTo(type, slice.add, wide.data() + r.column_begin, r.columns(),
              out + (row - r.row_begin) * r.columns() * BlockBytes(type));
    }
    return absl::OkStatus();
  }

  // By way of GGUF's order, in which the second half of a block is in the upper halves.
  static void WidenGroups(const std::vector<char>& packed, const std::vector<char>& powers,
                          float* out) {
    for (size_t g = 0; g < powers.size(); ++g) {
      char block[17];
      float halves[kMxfp4Group];
      block[0] = powers[g];
      std::memcpy(block + 1, packed.data() + g * 16, 16);
      ToFloat(DType::kMxfp4, block, kMxfp4Group, halves);
      for (int j = 0; j < 16; ++j) {
        *out++ = halves[j];
        *out++ = halves[j + 16];
      }
    }
  }

  const ModelDescription& model_;
  const absl::btree_map<std::string, std::unique_ptr<ByteSource>> files_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ParameterReader>> ParameterReader::Open(
    const ModelFiles& files, const ModelDescription& model) {
  absl::btree_map<std::string, std::unique_ptr<ByteSource>> open;
  for (const auto& [name, info] : model.tensors) {
    if (open.contains(info.file)) continue;
    GRAFT_ASSIGN_OR_RETURN(open[info.file], files.Open(info.file));
  }
  return std::make_unique<Reader>(model, std::move(open));
}

}  // namespace graft::spec
