# The lint of the contract: protoc writes every .proto of proto/graft with its comments into one
# descriptor set, which proto_lint reads. `proto_lint SET SNAPSHOT --update` takes additions into the
# snapshot.
get_property(_contract GLOBAL PROPERTY GRAFT_CONTRACT_PROTOS)
set(_set ${CMAKE_BINARY_DIR}/contract.desc)
list(TRANSFORM _contract PREPEND ${CMAKE_SOURCE_DIR}/proto/ OUTPUT_VARIABLE _contract_files)
add_custom_command(
  OUTPUT ${_set}
  COMMAND protobuf::protoc -I ${CMAKE_SOURCE_DIR}/proto -I ${GRAFT_GOOGLEAPIS_DIR} -I ${GRAFT_PROTOBUF_INCLUDE}
          --include_source_info --include_imports --descriptor_set_out=${_set} ${_contract}
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/proto
  DEPENDS ${_contract_files}
  COMMENT "protoc contract.desc" VERBATIM)
add_custom_target(contract_descriptors DEPENDS ${_set})

graft_library(graft_proto_lint SRCS proto_lint.cc proto_snapshot.cc
  DEPS graft_base graft_api_proto absl::strings absl::btree)
graft_binary(proto_lint SRCS proto_lint_main.cc DEPS graft_proto_lint)
add_dependencies(proto_lint contract_descriptors)
graft_test(tidy_proto_lint_test SRCS proto_lint_test.cc DEPS graft_proto_lint LABELS tidy)
add_dependencies(tidy_proto_lint_test contract_descriptors)
