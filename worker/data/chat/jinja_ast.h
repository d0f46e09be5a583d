// A parsed template. Immutable after parsing; shared by all renderings.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/data/chat/jinja_value.h"

namespace graft::jinja {

struct FilterEntry;
struct FunctionEntry;
struct TestEntry;

// The number of an interned variable name.
using NameId = uint32_t;

enum class ExprKind : uint8_t {
  kConst,
  kName,
  kAttr,       // a.text
  kItem,       // a[b]
  kSlice,      // a : b : c inside of kItem; each may be null
  kList,       // items
  kTuple,      // items
  kDict,       // items: key, value, key, value ...
  kCall,       // a(args)
  kFilter,     // a | filter(args); a is null in a filter block
  kTest,       // a is test(args)
  kCondition,  // a if b else c (c may be null)
  kNot,
  kNeg,
  kPos,
  kAnd,
  kOr,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kFloorDiv,
  kMod,
  kPow,
  kConcat,   // items
  kCompare,  // items: operands; ops between them
};

enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct CallArgs {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<const Str*, ExprPtr>> named;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int height = 1;  // of the tree below, bounded by the parser
  Value constant;
  NameId name = 0;
  const Str* text = nullptr;  // attribute, or the name of a filter or test
  bool negated = false;       // is not
  ExprPtr a, b, c;
  std::vector<ExprPtr> items;
  std::vector<CompareOp> ops;
  std::unique_ptr<CallArgs> args;
  const FilterEntry* filter = nullptr;  // nullptr: unknown, an error when it runs
  const TestEntry* test = nullptr;
};

// What an assignment writes to: a name, ns.attribute, or a tuple of targets.
struct Target {
  NameId name = 0;
  const Str* attribute = nullptr;  // of the namespace `name`
  std::vector<Target> tuple;
};

enum class StmtKind : uint8_t {
  kData,    // text
  kOutput,  // expr
  kIf,      // branches
  kFor,
  kSet,       // target = expr
  kSetBlock,  // target, body, filters
  kMacro,
  kCallBlock,    // expr is the call; macro the caller
  kFilterBlock,  // expr is a chain of filters with a null leaf
  kWith,         // targets, exprs, body
  kGeneration,
  kBreak,
  kContinue,
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct MacroDef {
  const Str* name = nullptr;
  NameId name_id = 0;
  std::vector<NameId> parameters;
  std::vector<const Str*> parameter_names;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  const Str* text = nullptr;
  ExprPtr expr;
  Target target;
  Body body;
  Body otherwise;  // else of for and if
  // kIf: conditions and bodies of if and every elif.
  std::vector<std::pair<ExprPtr, Body>> branches;
  ExprPtr filter;  // for ... if; set-block's chain of filters
  bool recursive = false;
  std::unique_ptr<MacroDef> macro;
  std::vector<std::pair<Target, ExprPtr>> assignments;  // kWith
};

struct Program {
  Program() : arena(int64_t{1} << 40, int64_t{1} << 31) {}
  Arena arena;  // of the constants
  Body body;
  std::vector<std::string> names;
  absl::flat_hash_map<std::string, NameId> name_ids;
  bool has_generation = false;
  // Interned by every program.
  NameId loop = 0, caller = 0, varargs = 0, kwargs = 0;
  // The global functions that the template mentions.
  std::vector<std::pair<NameId, const FunctionEntry*>> functions;

  static constexpr NameId kNoName = ~NameId{0};
  // kNoName where the template does not mention it.
  NameId FindName(absl::string_view name) const {
    const auto it = name_ids.find(name);
    return it == name_ids.end() ? kNoName : it->second;
  }
};

}  // namespace graft::jinja
