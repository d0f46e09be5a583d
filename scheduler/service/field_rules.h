// The default and the bounds that the contract states beside a field.
#pragma once

#include <string>

#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace graft::scheduler {

// Sets a scalar field to its default; no-op where the contract states none.
void SetDefault(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field);

// What is wrong with the number in `field`, in words that follow its name; empty: nothing, or the
// field has no number or no bounds.
std::string OutOfBounds(const google::protobuf::Message& message,
                        const google::protobuf::FieldDescriptor& field);

}  // namespace graft::scheduler
