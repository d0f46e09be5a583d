#include "worker/model/group_build.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft::model {

void GroupBuilder::Describe(const std::vector<std::string>& names, LinearGroup& group,
                            bool inside) {
  bool bias = false;
  int64_t whole_out = 0;
  std::vector<Trained::Piece> pieces;
  int axis = 0;
  for (const std::string& name : names) {
    const spec::Parameter* weight = placer_.Find(name + ".weight");
    GRAFT_CHECK(weight != nullptr) << name;
    const Cut cut = placer_.Own(*weight);
    const std::vector<int64_t> shape = placer_.Shape(*weight, cut);
    axis = cut.axis;
    pieces.push_back({axis == 0 ? group.out : 0, axis == 0 ? whole_out + cut.begin : cut.begin,
                      cut.count, cut.copies});
    cuts_[name] = cut;
    group.parts.push_back({name, group.out, shape[0]});
    group.in = shape[1];
    group.whole_in = weight->shape[1];
    group.in_begin = cut.axis == 1 ? cut.begin : 0;
    group.out += shape[0];
    whole_out += weight->shape[0];
    bias = bias || placer_.Find(name + ".bias") != nullptr;
    group_of_[name] = &group;
  }
  if (!inside) (axis == 0 ? group.gather : group.scatter) = placer_.division().tensor;
  group.layer = placer_.NumberGroups(1);
  const std::string joined = absl::StrJoin(names, "+");
  if (placer_.trains_all()) {
    ParameterStore& store = placer_.store();
    group.weight_grad =
        store.Declare(joined + ".weight", {group.out, group.in}, true, placer_.layer(), 1);
    SetPieces(group.weight_grad, {whole_out, group.whole_in}, axis, pieces);
  }
  if (bias && TrainsBias(group)) {
    group.bias_grad = placer_.store().Declare(joined + ".bias", {group.out}, false, placer_.layer(),
                                              placer_.division().tp);
    if (axis == 0) SetPieces(group.bias_grad, {whole_out}, 0, pieces);
  }
  placer_.Later([this, &group, bias] { return Fill(group, bias); });
}

LinearGroup* GroupBuilder::GroupOf(const std::string& part) const {
  const auto found = group_of_.find(part);
  return found == group_of_.end() ? nullptr : found->second;
}

// Notes which rows are not to change, where only some of the group's biases are trained.
bool GroupBuilder::TrainsBias(LinearGroup& group) {
  if (placer_.trains_all()) return true;
  bool any = false;
  std::vector<std::pair<int64_t, int64_t>> frozen;
  for (const LinearGroup::Part& part : group.parts) {
    const bool trained = placer_.targets().TrainsBias(part.name);
    any = any || trained;
    if (!trained) {
      frozen.emplace_back(part.begin, part.rows);
    } else if (placer_.Find(part.name + ".bias") != nullptr) {
      placer_.decoder().trained_biases.insert(part.name + ".bias");
    }
  }
  if (any) group.frozen_bias = std::move(frozen);
  return any;
}

// Every part must be quantised, whole and row by row in the file.
bool GroupBuilder::CanKeepBlocks(const LinearGroup& group) const {
  const BuildOptions& options = placer_.options();
  if (!options.keep_blocks || options.without_frozen || group.weight_grad != nullptr ||
      !options.device.is_cpu()) {
    return false;
  }
  for (const LinearGroup::Part& part : group.parts) {
    const spec::Parameter& p = *placer_.Find(part.name + ".weight");
    const spec::DType type = placer_.reader().StoredType(p);
    if (!spec::IsQuantized(type) || cuts_.at(part.name).axis != 0) return false;
    if (group.in % spec::BlockElements(type) != 0 || !placer_.reader().MappedRow(p, 0, 0).ok()) {
      return false;
    }
  }
  return true;
}

absl::Status GroupBuilder::KeepBlocks(LinearGroup& group) {
  group.blocks.columns = group.in;
  for (size_t i = 0; i < group.parts.size(); ++i) {
    const LinearGroup::Part& part = group.parts[i];
    const spec::Parameter& p = *placer_.Find(part.name + ".weight");
    const spec::DType type = placer_.reader().StoredType(p);
    const int64_t row_bytes = spec::BytesOf(type, group.in);
    at::Tensor bytes = at::empty({part.rows, row_bytes}, at::kByte);
    auto* to = static_cast<char*>(bytes.mutable_data_ptr());
    for (int64_t row = 0; row < part.rows; ++row, to += row_bytes) {
      GRAFT_ASSIGN_OR_RETURN(const absl::string_view from,
                             placer_.reader().MappedRow(p, 0, cuts_.at(part.name).begin + row));
      GRAFT_CHECK(static_cast<int64_t>(from.size()) == row_bytes) << part.name;
      std::memcpy(to, from.data(), from.size());
    }
    group.blocks.parts.push_back({type, std::move(bytes)});
    placer_.decoder().blocks[part.name + ".weight"] = {&group.blocks, i};
  }
  return absl::OkStatus();
}

absl::Status GroupBuilder::Fill(LinearGroup& group, bool bias) {
  const bool blocks = CanKeepBlocks(group);
  if (blocks) {
    GRAFT_RETURN_IF_ERROR(KeepBlocks(group));
  } else {
    group.weight = group.weight_grad != nullptr
                       ? group.weight_grad->value
                       : placer_.Empty({group.out, group.in}, placer_.options().frozen_type);
  }
  if (bias) {
    group.bias = group.bias_grad != nullptr ? group.bias_grad->value
                                            : placer_.Empty({group.out}, at::kFloat).zero_();
  }
  for (const LinearGroup::Part& part : group.parts) {
    const bool read = group.weight_grad != nullptr || !placer_.options().without_frozen;
    if (!blocks) {
      at::Tensor rows = group.weight.narrow(0, part.begin, part.rows);
      if (read) GRAFT_RETURN_IF_ERROR(placer_.Read(*placer_.Find(part.name + ".weight"), rows));
      placer_.decoder().parameters[part.name + ".weight"] = rows;
    }
    const spec::Parameter* b = placer_.Find(part.name + ".bias");
    if (b == nullptr) continue;
    at::Tensor numbers = group.bias.narrow(0, part.begin, part.rows);
    if (read) GRAFT_RETURN_IF_ERROR(placer_.Read(*b, numbers));
    placer_.decoder().parameters[part.name + ".bias"] = numbers;
  }
  return absl::OkStatus();
}

}  // namespace graft::model
