// Makes a Decoder from a model's files, with what is to be trained.
//
//   GRAFT_ASSIGN_OR_RETURN(auto files, spec::LocalModelFiles(path));
//   GRAFT_ASSIGN_OR_RETURN(auto description, spec::ReadModel(*files));
//   GRAFT_ASSIGN_OR_RETURN(auto reader, spec::ParameterReader::Open(*files, description));
//   GRAFT_ASSIGN_OR_RETURN(auto decoder, BuildDecoder(description, *reader, {.train =
//   Train::kLora}));
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/build_options.h"
#include "worker/model/decoder.h"
#include "worker/spec/load.h"
#include "worker/spec/parameter_reader.h"

namespace graft::model {

// INVALID_ARGUMENT: target modules that match nothing (with the known names), a weight that is not
// finite. UNIMPLEMENTED: parts of a model that this build of the trainer cannot compute, by name.
absl::StatusOr<std::unique_ptr<Decoder>> BuildDecoder(const spec::ModelDescription& description,
                                                      const spec::ParameterReader& reader,
                                                      const BuildOptions& options);

// Every adapter of a linear that the Hub layout has as a module of its own, in the order of
// computation, the head last.
std::vector<const Adapter*> Adapters(Decoder& decoder);

}  // namespace graft::model
