# The functions every folder's CMakeLists.txt is written in. A target names each of its
# dependencies; what it does not name it cannot include a generated header of, nor link.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_FLAGS_RELEASE "-O2")  # no -DNDEBUG: assertions stay on
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O1 -g1 -fno-omit-frame-pointer")
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(GRAFT_CCACHE ccache)
if(GRAFT_CCACHE)
  # With the compiler's own list of headers a file that is not known is not preprocessed once more first.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      env CCACHE_DEPEND=1 CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${GRAFT_CCACHE})
endif()

# Debian's default linker takes 1.1 s for a program, lld 0.3.
find_program(GRAFT_LLD ld.lld)
if(GRAFT_LLD)
  add_link_options(-fuse-ld=lld)
endif()

option(GRAFT_BATCHES "Compile the files of a library in batches, which parse the same headers once" ON)

set(GRAFT_GEN_DIR ${CMAKE_BINARY_DIR}/gen)
file(MAKE_DIRECTORY ${GRAFT_GEN_DIR})

add_library(graft_options INTERFACE)
target_include_directories(graft_options INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/proto ${GRAFT_GEN_DIR})
target_compile_options(graft_options INTERFACE -Wall -Wextra -Werror -Wno-unused-parameter
  -Wno-missing-field-initializers)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  target_compile_options(graft_options INTERFACE -march=x86-64-v2)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(graft_options INTERFACE -Wthread-safety)
else()
  # GCC 12 reports these inside its own and Abseil's headers once they are inlined.
  target_compile_options(graft_options INTERFACE -Wno-maybe-uninitialized -Wno-restrict
    -Wno-stringop-overflow -Wno-array-bounds -Wno-dangling-pointer)
  if(GRAFT_BATCHES)
    # A batch's files are no main files, and a type of one may well have members of its anonymous namespace.
    target_compile_options(graft_options INTERFACE -Wno-subobject-linkage)
  endif()
  # Most files then compile without a garbage collection in the compiler: 5 % less time for up to 160 MB.
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:--param=ggc-min-heapsize=400000>)
endif()
if(GRAFT_SANITIZER)
  string(REPLACE ";" "," _graft_san "${GRAFT_SANITIZER}")
  target_compile_options(graft_options INTERFACE -fsanitize=${_graft_san} -fno-omit-frame-pointer)
  target_link_options(graft_options INTERFACE -fsanitize=${_graft_san})
  if(GRAFT_SANITIZER STREQUAL "thread")
    # Protobuf's messages have one member more under this macro, and Debian's library is built without.
    target_compile_options(graft_options INTERFACE -U__SANITIZE_THREAD__)
  endif()
  if("undefined" IN_LIST GRAFT_SANITIZER)
    target_compile_options(graft_options INTERFACE -fno-sanitize-recover=undefined)
  endif()
endif()
# For every test that runs programs of ours: what of the libraries is no finding.
set(GRAFT_SANITIZER_ENVIRONMENT
  # Without the last option each report that is suppressed is looked for among all before it, one by one: 95 % of a
  # test's time, and 50 times its length.
  "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/support/tsan_suppressions.txt:suppress_equal_addresses=0"
  "LSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/tests/support/lsan_suppressions.txt:print_suppressions=0")
if(GRAFT_SANITIZER STREQUAL "thread")
  # libgomp is not instrumented: its barriers are not seen, and what its threads share looks like a race.
  list(APPEND GRAFT_SANITIZER_ENVIRONMENT "OMP_NUM_THREADS=1")
endif()

# Targets that see torch's headers, known by what they depend on: they share graft_model's precompiled one,
# which wants the same flags of all. at::parallel_for is a template over OpenMP: without GRAFT_OPENMP it runs
# on one thread, silently. The flag is for compiling alone; the runtime is the wheel's own libgomp, so that a
# process has one.
function(graft_torch_headers name)
  set(torch graft_torch graft_model graft_method graft_parallel graft_trainer)
  foreach(dep IN LISTS ARGN)
    if(dep IN_LIST torch)
      target_compile_options(${name} PRIVATE ${GRAFT_OPENMP} -fPIC)  # executables too, as in the header
      if(GRAFT_SANITIZER)
        return()
      elseif(name STREQUAL "graft_model")
        target_precompile_headers(${name} PRIVATE torch_pch.h)
      else()
        target_precompile_headers(${name} REUSE_FROM graft_model)
      endif()
      return()
    endif()
  endforeach()
endfunction()

# How tests are compiled, and libraries that say QUICK because a person waits for what they call. A fifth less time.
set(GRAFT_QUICK $<$<CONFIG:Release>:-O1>)

# graft_library(name SRCS a.cc ... DEPS graft_base ... [PRIVATE_DEPS ...] [BATCH 6] [QUICK])
# Headers stand beside their sources; a library without sources is an interface.
function(graft_library name)
  cmake_parse_arguments(ARG "QUICK" "BATCH" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${name} STATIC ${ARG_SRCS})
    # What a file keeps to itself (its anonymous namespace) must then differ from its neighbours'. Presets debug
    # and clang compile each file alone, which shows that it includes what it uses.
    if(GRAFT_BATCHES)
      if(NOT ARG_BATCH)
        set(ARG_BATCH 6)
      endif()
      set_target_properties(${name} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${ARG_BATCH})
    endif()
    if(ARG_QUICK)
      target_compile_options(${name} PRIVATE ${GRAFT_QUICK})
    endif()
    target_link_libraries(${name} PUBLIC ${ARG_DEPS} PRIVATE $<BUILD_INTERFACE:graft_options> ${ARG_PRIVATE_DEPS})
    target_include_directories(${name} PUBLIC
      $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}> $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/proto>)
    graft_torch_headers(${name} ${ARG_DEPS})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE ${ARG_DEPS})
    target_include_directories(${name} INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/proto)
  endif()
endfunction()

# graft_binary(name SRCS main.cc DEPS ...): an executable in build/<preset>/bin.
function(graft_binary name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE graft_options ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  graft_torch_headers(${name} ${ARG_DEPS})
endfunction()

# graft_bench(name SRCS x_bench.cc DEPS ...): a program that measures, of the target `benches`.
function(graft_bench name)
  graft_binary(${name} ${ARGN})
  set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  add_dependencies(benches ${name})
endfunction()

# graft_test(name SRCS x_test.cc DEPS ... [LABELS unit] [TIMEOUT 120] [ARGS ...])
# Labels name the group (unit, sim, e2e, parity, fuzz, tidy, bench); the tier is in the environment
# variable GRAFT_TIER (default, full, soak), from which a test takes its counts (tests/support/tier.h).
function(graft_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SRCS;DEPS;LABELS;ARGS" ${ARGN})
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(GRAFT_SANITIZER)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 6")  # what a thread sanitizer costs at worst
  endif()
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE graft_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_options(${name} PRIVATE ${GRAFT_QUICK})
  graft_torch_headers(${name} ${ARG_DEPS})
  get_target_property(header ${name} PRECOMPILE_HEADERS_REUSE_FROM)
  if(NOT header AND TARGET graft_test_headers)
    target_precompile_headers(${name} REUSE_FROM graft_test_headers)
    target_compile_options(${name} PRIVATE -pthread)  # a macro, which must be the header's; some libraries bring it
  endif()
  # clang-tidy (preset clang) reads programs and libraries: gtest's macros cost it more than it finds.
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests CXX_CLANG_TIDY "")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
    ENVIRONMENT "GRAFT_SOURCE_DIR=${CMAKE_SOURCE_DIR};GRAFT_BINARY_DIR=${CMAKE_BINARY_DIR};LLVM_PROFILE_FILE=/dev/null;${GRAFT_SANITIZER_ENVIRONMENT}")
endfunction()

# graft_fuzz(name SRCS x_fuzz.cc DEPS ...): a libFuzzer program of the target `fuzzers` where GRAFT_FUZZ is on,
# nothing else.
if(GRAFT_FUZZ)
  add_custom_target(fuzzers)
endif()
function(graft_fuzz name)
  if(NOT GRAFT_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  target_link_libraries(${name} PRIVATE graft_options ${ARG_DEPS})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  add_dependencies(fuzzers ${name})
endfunction()

# graft_proto(name ROOT dir PROTOS a/b.proto ... [DEPS ...] [GRPC]): one library of generated code.
# Paths are relative to ROOT, which is the import root too.
function(graft_proto name)
  cmake_parse_arguments(ARG "GRPC" "ROOT" "PROTOS;DEPS" ${ARGN})
  set(outputs)
  set(root)
  if(NOT ARG_ROOT STREQUAL "${CMAKE_SOURCE_DIR}/proto" AND NOT ARG_ROOT STREQUAL "${GRAFT_GOOGLEAPIS_DIR}")
    set(root -I ${ARG_ROOT})
  endif()
  foreach(proto IN LISTS ARG_PROTOS)
    string(REGEX REPLACE "\\.proto$" "" stem ${proto})
    set(out ${GRAFT_GEN_DIR}/${stem}.pb.cc ${GRAFT_GEN_DIR}/${stem}.pb.h)
    set(plugin)
    if(ARG_GRPC)
      list(APPEND out ${GRAFT_GEN_DIR}/${stem}.grpc.pb.cc ${GRAFT_GEN_DIR}/${stem}.grpc.pb.h)
      set(plugin --grpc_out=${GRAFT_GEN_DIR} --plugin=protoc-gen-grpc=${GRAFT_GRPC_CPP_PLUGIN})
    endif()
    add_custom_command(
      OUTPUT ${out}
      COMMAND protobuf::protoc ${root} -I ${CMAKE_SOURCE_DIR}/proto -I ${GRAFT_GOOGLEAPIS_DIR} -I ${GRAFT_PROTOBUF_INCLUDE}
              --cpp_out=${GRAFT_GEN_DIR} ${plugin} ${proto}
      WORKING_DIRECTORY ${ARG_ROOT}
      DEPENDS ${ARG_ROOT}/${proto}
      COMMENT "protoc ${proto}" VERBATIM)
    list(APPEND outputs ${out})
  endforeach()
  add_library(${name} STATIC ${outputs})
  target_link_libraries(${name} PUBLIC protobuf::libprotobuf ${ARG_DEPS})
  if(ARG_GRPC)
    target_link_libraries(${name} PUBLIC gRPC::grpc++)
  endif()
  target_include_directories(${name} SYSTEM PUBLIC $<BUILD_INTERFACE:${GRAFT_GEN_DIR}>)
  target_compile_options(${name} PRIVATE -O1)
  # In batches, because all parse the same headers: 295 s of CPU for the 45 files became 150 s. protoc gives two
  # static arrays the same names in every file; here each file has its own, but for the header's member `schemas`.
  set_target_properties(${name} PROPERTIES CXX_CLANG_TIDY ""
    UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 12 UNITY_BUILD_UNIQUE_ID GRAFT_UNITY_ID
    UNITY_BUILD_CODE_BEFORE_INCLUDE [[
#include <google/protobuf/generated_message_reflection.h>
#define GRAFT_PASTE(a, b) a##b
#define GRAFT_OF_FILE(name, id) GRAFT_PASTE(name, id)
#define schemas GRAFT_OF_FILE(schemas_, GRAFT_UNITY_ID)
#define file_default_instances GRAFT_OF_FILE(file_default_instances_, GRAFT_UNITY_ID)]]
    UNITY_BUILD_CODE_AFTER_INCLUDE "#undef schemas\n#undef file_default_instances")
endfunction()
