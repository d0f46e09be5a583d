#include "worker/trainer/model_export.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/model/decoder_build.h"
#include "worker/spec/safetensors.h"
#include "worker/trainer/adapter_files.h"

namespace graft::trainer {
namespace {

// Everything beside the weights that a Hub folder may hold and that training does not change.
constexpr const char* kCarried[] = {"generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "chat_template.jinja",
                                    "vocab.json",
                                    "merges.txt",
                                    "tokenizer.model",
                                    "added_tokens.json"};

struct WrittenPrecision {
  spec::DType file;
  at::ScalarType type;
  const char* name;  // in config.json
  double max_kl;     // between the probe's distributions before and after writing
};

// The model's own precision, bfloat16 where it was quantised.
WrittenPrecision OutputPrecision(const RunConfig& config, const spec::ModelFacts& facts) {
  const WrittenPrecision f32 = {spec::DType::kF32, at::kFloat, "float32", 1e-6};
  const WrittenPrecision bf16 = {spec::DType::kBF16, at::kBFloat16, "bfloat16", 2e-2};
  const WrittenPrecision f16 = {spec::DType::kF16, at::kHalf, "float16", 2e-3};
  const std::string& wanted = config.output.precision;
  if (wanted == "float32" || (wanted == "auto" && facts.precision == "F32")) return f32;
  if (wanted == "float16" || (wanted == "auto" && facts.precision == "F16")) return f16;
  return bf16;
}

// The numbers of parameters as they are to be written: with the adapters added.
class Weights {
 public:
  explicit Weights(model::Decoder& decoder) : decoder_(decoder) {
    for (const auto& layer : decoder.layers()) {
      for (const model::LinearGroup* group : layer->Groups()) {
        for (const auto& part : group->parts) {
          parts_[part.name + ".weight"].push_back({group, &part});  // of experts: in their order
        }
      }
    }
  }

  at::Tensor Get(const std::string& name) const {
    const at::Tensor base = decoder_.Parameter(name).to(at::kFloat);
    if (name == "embed.weight" && decoder_.embed_adapter.rank > 0) {
      const model::Adapter& a = decoder_.embed_adapter;
      return at::addmm(base, a.a->value.t(), a.b->value.t(), 1, a.scale);
    }
    if (name == "head.weight" && decoder_.head().adapter.rank > 0) {
      const model::Adapter& a = decoder_.head().adapter;
      return at::addmm(base, a.b->value, a.a->value, 1, a.scale);
    }
    const auto found = parts_.find(name);
    if (found == parts_.end()) return base;
    const std::vector<Place>& places = found->second;
    if (base.dim() == 2) return WithAdapters(base, places.front());
    at::Tensor experts = base.clone();
    for (size_t e = 0; e < places.size(); ++e) {
      at::Tensor own = experts.select(0, static_cast<int64_t>(e));
      own.copy_(WithAdapters(own, places[e]));
    }
    return experts;
  }

 private:
  struct Place {
    const model::LinearGroup* group;
    const model::LinearGroup::Part* part;
  };

  static at::Tensor WithAdapters(at::Tensor merged, const Place& place) {
    const int64_t begin = place.part->begin, count = place.part->rows;
    for (const model::Adapter& adapter : place.group->adapters) {
      for (const model::Adapter::Rows& rows : adapter.rows) {
        if (begin < rows.group_begin || begin + count > rows.group_begin + rows.count) continue;
        merged = Merge(merged, adapter, rows.b_begin + begin - rows.group_begin, count);
      }
    }
    return merged;
  }

  static at::Tensor Merge(const at::Tensor& base, const model::Adapter& adapter, int64_t b_begin,
                          int64_t count) {
    const at::Tensor b = adapter.b->value.narrow(0, b_begin, count);
    at::Tensor sum = at::addmm(base, b, adapter.a->value, 1, adapter.scale);
    if (adapter.magnitude != nullptr) {
      const at::Tensor m = adapter.magnitude->value.narrow(0, b_begin, count);
      sum.mul_((m / sum.norm(2, 1)).unsqueeze(1));
    }
    return sum;
  }

  model::Decoder& decoder_;
  std::map<std::string, std::vector<Place>> parts_;
};

// Puts a parameter (or one expert of it) where its slice of the stored tensor is.
absl::Status Place(const spec::TensorSlice& slice, const at::Tensor& value, at::Tensor stored) {
  GRAFT_CHECK(slice.permuted_heads == 0) << slice.tensor << " of the Hub layout";
  at::Tensor view = slice.transposed ? stored.transpose(-2, -1) : stored;
  if (slice.count > 0) {
    view = view.slice(slice.axis, slice.begin, slice.begin + slice.count * slice.step, slice.step);
  }
  view.copy_((slice.add == 0 ? value : value - slice.add).view(view.sizes()));
  return absl::OkStatus();
}

absl::Status WriteWeights(const std::string& folder, const RunConfig& config,
                          const WrittenPrecision& precision,
                          const spec::ModelDescription& description, model::Decoder& decoder) {
  const std::vector<spec::HubTensor> tensors = spec::HubTensors(description);
  std::vector<spec::TensorToWrite> layout;
  for (const spec::HubTensor& t : tensors) layout.push_back({t.name, precision.file, t.shape});
  spec::SafetensorsWriterOptions options;
  options.folder = folder;
  options.max_shard_bytes = config.output.max_shard_bytes;
  GRAFT_ASSIGN_OR_RETURN(auto writer, spec::SafetensorsWriter::Create(options, layout));
  const Weights weights(decoder);
  for (const spec::HubTensor& t : tensors) {
    GRAFT_ASSIGN_OR_RETURN(const at::Tensor wide,
                           AssembleHubTensor(description, t, [&](const std::string& name) {
                             return weights.Get(name);
                           }));
    const at::Tensor out = wide.to(precision.type).contiguous();
    GRAFT_RETURN_IF_ERROR(writer->Append(absl::string_view(
        static_cast<const char*>(out.const_data_ptr()), static_cast<size_t>(out.nbytes()))));
  }
  return writer->Finish().status();
}

absl::Status WriteAround(const std::string& folder, const WrittenPrecision& precision,
                         const ModelSource& model) {
  Json json = Json::MakeObject();
  for (const auto& [key, value] : model.description.config.as_object()) {
    // Whatever the base was stored in, this is plain numbers.
    if (key != "quantization_config") json.Set(key, value);
  }
  // The name that both older and newer readers know.
  json.Set(json.Find("dtype") != nullptr ? "dtype" : "torch_dtype", precision.name);
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, "config.json"), json.Dump(2) + "\n"));
  for (const char* name : kCarried) {
    if (!spec::HasFile(*model.files, name)) continue;
    GRAFT_ASSIGN_OR_RETURN(const std::string bytes,
                           spec::ReadWhole(*model.files, name, int64_t{256} << 20));
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, name), bytes));
  }
  if (model.tokenizer_config.is_null()) return absl::OkStatus();
  // A GGUF file holds its tokenizer in itself.
  GRAFT_RETURN_IF_ERROR(
      WriteFileAtomically(JoinPath(folder, "tokenizer.json"), model.tokenizer->ToJson()));
  return WriteFileAtomically(JoinPath(folder, "tokenizer_config.json"),
                             model.tokenizer_config.Dump(2) + "\n");
}

at::Tensor ProbeLogProbs(const model::Decoder& decoder) {
  constexpr int64_t kProbeTokens = 48;
  const at::NoGradGuard no_grad;
  model::Batch batch;
  const int64_t vocab = decoder.spec().vocab;
  // Spread over the vocabulary; the same every time.
  batch.tokens = (at::arange(kProbeTokens, at::kLong) * 7919 + 17).remainder(vocab);
  batch.positions = at::arange(kProbeTokens, at::kLong);
  batch.starts = {0, kProbeTokens};
  return at::log_softmax(model::HeadLogits(decoder.head(), decoder.Hidden(batch)), -1);
}

// Reads the written folder back and compares what it computes with what was trained.
absl::Status Probe(const std::string& folder, const WrittenPrecision& precision,
                   model::Decoder& trained) {
  GRAFT_ASSIGN_OR_RETURN(const auto files, spec::LocalModelFiles(folder));
  GRAFT_ASSIGN_OR_RETURN(const spec::ModelDescription description, spec::ReadModel(*files));
  GRAFT_ASSIGN_OR_RETURN(const auto reader, spec::ParameterReader::Open(*files, description));
  GRAFT_ASSIGN_OR_RETURN(const auto written, model::BuildDecoder(description, *reader, {}));
  // Both in fp32: what is compared is the weights.
  const at::ScalarType computed = trained.compute_type();
  trained.set_compute_type(at::kFloat);
  const at::Tensor want = ProbeLogProbs(trained);
  trained.set_compute_type(computed);
  const at::Tensor got = ProbeLogProbs(*written);
  const double kl = (want.exp() * (want - got)).sum(-1).max().item<double>();
  if (std::isfinite(kl) && kl <= precision.max_kl) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat(folder, ": the written model does not compute what was trained (divergence ", kl,
                   " on the probe, allowed is ", precision.max_kl, "); it must not be used"));
}

}  // namespace

absl::StatusOr<at::Tensor> AssembleHubTensor(
    const spec::ModelDescription& description, const spec::HubTensor& tensor,
    const std::function<at::Tensor(const std::string&)>& parameter) {
  at::Tensor stored = at::empty(tensor.shape, at::kFloat);
  for (const spec::HubTensor::Piece& piece : tensor.pieces) {
    const spec::Parameter& from = description.parameters[piece.parameter];
    at::Tensor value = parameter(from.name);
    if (from.hub.size() > 1) value = value.select(0, piece.slice);
    GRAFT_RETURN_IF_ERROR(Place(from.hub[piece.slice], value, stored));
  }
  return stored;
}

at::Tensor GradientOf(model::Decoder& decoder, const std::string& name) {
  const at::Tensor& value = decoder.parameters.at(name);
  GRAFT_CHECK(value.is_alias_of(decoder.store().values())) << name << " is frozen";
  return decoder.store().grads().as_strided(value.sizes(), value.strides(), value.storage_offset());
}

absl::Status CheckOutput(const RunConfig& config, const model::Decoder& decoder) {
  const bool merged = config.tuning.kind == TuningKind::kLoraMerged;
  if (!merged || !decoder.parted_ends) return absl::OkStatus();
  return absl::UnimplementedError(
      "tuning.kind lora_merged: this model's head is its embedding, and only one of them would "
      "change; leave both out of target_modules and modules_to_save, or keep an adapter");
}

absl::Status WriteOutput(const RunConfig& config, const ModelSource& model,
                         model::Decoder& decoder) {
  const std::string& folder = config.output.folder;
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder));
  if (config.tuning.kind == TuningKind::kLora) {
    return WriteAdapter(folder, config, model.description, decoder);
  }
  const WrittenPrecision precision = OutputPrecision(config, model.description.facts);
  GRAFT_RETURN_IF_ERROR(WriteWeights(folder, config, precision, model.description, decoder));
  GRAFT_RETURN_IF_ERROR(WriteAround(folder, precision, model));
  return Probe(folder, precision, decoder);
}

}  // namespace graft::trainer
