#include "rpc/filter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "rpc/nearest_name.h"
#include "rpc/status.h"

namespace graft::rpc {

struct Filter::Node {
  enum class Kind { kAnd, kOr, kNot, kTerm };
  enum class Op { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kHas };
  Kind kind = Kind::kTerm;
  std::vector<std::shared_ptr<const Node>> children;  // of kAnd, kOr, kNot
  std::string field;                                  // of kTerm, as are those below
  Op op = Op::kEqual;
  FilterValue value;
  bool prefix = false;  // `value` is the start of what matches
};

namespace {

using Node = Filter::Node;
using Op = Node::Op;
using NodePtr = std::shared_ptr<const Node>;

struct Token {
  enum class Kind { kEnd, kWord, kText, kOp, kOpen, kClose };
  Kind kind = Kind::kEnd;
  std::string text;
  size_t column = 1;
};

constexpr std::pair<absl::string_view, Op> kOps[] = {
    {"!=", Op::kNotEqual}, {"<=", Op::kLessEqual}, {">=", Op::kGreaterEqual},
    {"=", Op::kEqual},     {"<", Op::kLess},       {">", Op::kGreater},
    {":", Op::kHas}};

bool IsWordChar(char c) {
  return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-' || c == '*' || c == '/' ||
         c == '+' || (c & 0x80) != 0;
}

class FilterParser {
 public:
  FilterParser(absl::string_view text, const FilterSchema& schema) : text_(text), schema_(schema) {}

  absl::StatusOr<NodePtr> Parse() {
    GRAFT_RETURN_IF_ERROR(Next());
    if (token_.kind == Token::Kind::kEnd) return nullptr;
    GRAFT_ASSIGN_OR_RETURN(NodePtr node, ParseAnd(0));
    if (token_.kind != Token::Kind::kEnd) return Error("expected AND or OR");
    return node;
  }

 private:
  absl::Status Error(absl::string_view what) const { return ErrorAt(token_.column, what); }

  absl::Status ErrorAt(size_t column, absl::string_view what) const {
    const std::string fields = absl::StrJoin(
        schema_, ", ", [](std::string* out, const auto& entry) { out->append(entry.first); });
    const std::string message = absl::StrCat("filter, column ", column, ": ", what);
    return ErrorBuilder(absl::StatusCode::kInvalidArgument, message)
        .Reason("FILTER_INVALID")
        .Metadata("position", absl::StrCat(column))
        .Metadata("fields", fields)
        .Field("filter", message)
        .Build();
  }

  absl::Status Next() {
    while (at_ < text_.size() && absl::ascii_isspace(text_[at_])) ++at_;
    token_ = Token{Token::Kind::kEnd, "", at_ + 1};
    if (at_ == text_.size()) return absl::OkStatus();
    const char c = text_[at_];
    if (c == '(' || c == ')') {
      ++at_;
      token_.kind = c == '(' ? Token::Kind::kOpen : Token::Kind::kClose;
      return absl::OkStatus();
    }
    if (c == '"' || c == '\'') return NextText(c);
    for (const auto& [name, op] : kOps) {
      if (!absl::StartsWith(text_.substr(at_), name)) continue;
      at_ += name.size();
      token_.kind = Token::Kind::kOp;
      token_.text = std::string(name);
      return absl::OkStatus();
    }
    // A time such as 2026-01-02T03:04:05Z holds colons: after an operator a word may, too.
    while (at_ < text_.size() && (IsWordChar(text_[at_]) || (value_next_ && text_[at_] == ':'))) {
      token_.text.push_back(text_[at_++]);
    }
    if (token_.text.empty())
      return Error(absl::StrCat("unexpected character '", text_.substr(at_, 1), "'"));
    token_.kind = Token::Kind::kWord;
    return absl::OkStatus();
  }

  absl::Status NextText(char quote) {
    token_.kind = Token::Kind::kText;
    for (++at_; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      token_.text.push_back(text_[at_]);
    }
    if (at_ == text_.size()) return Error("the text in quotes is not closed");
    ++at_;
    return absl::OkStatus();
  }

  bool IsKeyword(absl::string_view word) const {
    return token_.kind == Token::Kind::kWord && token_.text == word;
  }

  absl::StatusOr<NodePtr> ParseAnd(int depth) {
    return ParseSequence(Node::Kind::kAnd, "AND", depth, &FilterParser::ParseOr);
  }
  absl::StatusOr<NodePtr> ParseOr(int depth) {
    return ParseSequence(Node::Kind::kOr, "OR", depth, &FilterParser::ParseUnary);
  }

  absl::StatusOr<NodePtr> ParseSequence(Node::Kind kind, absl::string_view word, int depth,
                                        absl::StatusOr<NodePtr> (FilterParser::*parse)(int)) {
    auto node = std::make_shared<Node>();
    node->kind = kind;
    for (;;) {
      GRAFT_ASSIGN_OR_RETURN(NodePtr child, (this->*parse)(depth));
      node->children.push_back(std::move(child));
      if (!IsKeyword(word)) break;
      GRAFT_RETURN_IF_ERROR(Next());
    }
    if (node->children.size() == 1) return node->children[0];
    return node;
  }

  absl::StatusOr<NodePtr> ParseUnary(int depth) {
    if (depth > Filter::kMaxDepth) return Error("nested too deeply");
    if (IsKeyword("NOT")) {
      GRAFT_RETURN_IF_ERROR(Next());
      auto node = std::make_shared<Node>();
      node->kind = Node::Kind::kNot;
      GRAFT_ASSIGN_OR_RETURN(NodePtr child, ParseUnary(depth + 1));
      node->children.push_back(std::move(child));
      return node;
    }
    if (token_.kind != Token::Kind::kOpen) return ParseTerm();
    GRAFT_RETURN_IF_ERROR(Next());
    GRAFT_ASSIGN_OR_RETURN(NodePtr node, ParseAnd(depth + 1));
    if (token_.kind != Token::Kind::kClose) return Error("expected ')'");
    GRAFT_RETURN_IF_ERROR(Next());
    return node;
  }

  absl::StatusOr<NodePtr> ParseTerm() {
    if (token_.kind != Token::Kind::kWord) return Error("expected a field");
    if (++terms_ > Filter::kMaxTerms) return Error("too many comparisons");
    auto node = std::make_shared<Node>();
    GRAFT_ASSIGN_OR_RETURN(const FilterType type, TypeOf(token_.text));
    node->field = token_.text;
    GRAFT_RETURN_IF_ERROR(Next());
    if (token_.kind != Token::Kind::kOp) {
      return Error(absl::StrCat("expected =, !=, <, <=, >, >= or : after '", node->field, "'"));
    }
    for (const auto& [name, op] : kOps) {
      if (token_.text == name) node->op = op;
    }
    value_next_ = true;
    GRAFT_RETURN_IF_ERROR(Next());
    value_next_ = false;
    GRAFT_RETURN_IF_ERROR(ReadValue(type, *node));
    GRAFT_RETURN_IF_ERROR(Next());
    return node;
  }

  absl::StatusOr<FilterType> TypeOf(const std::string& field) {
    auto it = schema_.find(field);
    if (it == schema_.end()) {
      it = schema_.find(absl::StrCat(field.substr(0, field.find('.')), ".*"));
    }
    if (it != schema_.end() && field.find('*') == std::string::npos) return it->second;
    std::vector<std::string> known;
    for (const auto& entry : schema_) known.push_back(entry.first);
    return Error(absl::StrCat("there is no field '", field, "'", DidYouMean(field, known)));
  }

  absl::Status ReadValue(FilterType type, Node& node) {
    if (token_.kind != Token::Kind::kWord && token_.kind != Token::Kind::kText) {
      return Error("expected a value");
    }
    const std::string& text = token_.text;
    int64_t integer;
    double number;
    bool boolean;
    absl::Time time;
    std::string ignored;
    switch (type) {
      case FilterType::kString:
        node.prefix =
            (node.op == Op::kEqual || node.op == Op::kNotEqual) && absl::EndsWith(text, "*");
        node.value = node.prefix ? text.substr(0, text.size() - 1) : text;
        return absl::OkStatus();
      case FilterType::kInt:
        if (!absl::SimpleAtoi(text, &integer))
          return Error(absl::StrCat("'", text, "' is no integer"));
        node.value = integer;
        return absl::OkStatus();
      case FilterType::kDouble:
        if (!absl::SimpleAtod(text, &number))
          return Error(absl::StrCat("'", text, "' is no number"));
        node.value = number;
        return absl::OkStatus();
      case FilterType::kBool:
        if (!absl::SimpleAtob(text, &boolean))
          return Error(absl::StrCat("'", text, "' is not true or false"));
        node.value = boolean;
        return absl::OkStatus();
      case FilterType::kTime:
        if (!absl::ParseTime(absl::RFC3339_full, text, &time, &ignored)) {
          return Error(absl::StrCat("'", text, "' is no time such as 2026-01-31T12:00:00Z"));
        }
        node.value = time;
        return absl::OkStatus();
    }
    return Error("unknown type of field");
  }

  const absl::string_view text_;
  const FilterSchema& schema_;
  size_t at_ = 0;
  Token token_;
  bool value_next_ = false;
  int terms_ = 0;
};

bool MatchesValue(const Node& node, const FilterValue& value) {
  if (value.index() != node.value.index()) return false;
  if (const std::string* text = std::get_if<std::string>(&value)) {
    const std::string& wanted = std::get<std::string>(node.value);
    if (node.op == Op::kHas) return absl::StrContains(*text, wanted);
    if (node.prefix) return absl::StartsWith(*text, wanted) == (node.op == Op::kEqual);
  }
  switch (node.op) {
    case Op::kEqual:
    case Op::kHas:
      return value == node.value;
    case Op::kNotEqual:
      return value != node.value;
    case Op::kLess:
      return value < node.value;
    case Op::kLessEqual:
      return value <= node.value;
    case Op::kGreater:
      return value > node.value;
    case Op::kGreaterEqual:
      return value >= node.value;
  }
  return false;
}

bool MatchesNode(const Node& node, const FilterLookup& lookup) {
  const auto child_matches = [&](const NodePtr& child) { return MatchesNode(*child, lookup); };
  switch (node.kind) {
    case Node::Kind::kAnd:
      return std::all_of(node.children.begin(), node.children.end(), child_matches);
    case Node::Kind::kOr:
      return std::any_of(node.children.begin(), node.children.end(), child_matches);
    case Node::Kind::kNot:
      return !child_matches(node.children[0]);
    case Node::Kind::kTerm:
      break;
  }
  const std::vector<FilterValue> values = lookup(node.field);
  // An absent field is unlike any value.
  if (values.empty()) return node.op == Op::kNotEqual;
  return std::any_of(values.begin(), values.end(),
                     [&](const FilterValue& value) { return MatchesValue(node, value); });
}

}  // namespace

absl::StatusOr<Filter> Filter::Parse(absl::string_view text, const FilterSchema& schema) {
  if (text.size() > kMaxBytes) {
    return ErrorBuilder(
               absl::StatusCode::kInvalidArgument,
               absl::StrCat("the filter has ", text.size(), " bytes; ", kMaxBytes, " are the most"))
        .Reason("FILTER_INVALID")
        .Build();
  }
  Filter filter;
  GRAFT_ASSIGN_OR_RETURN(filter.root_, FilterParser(text, schema).Parse());
  return filter;
}

bool Filter::Matches(const FilterLookup& lookup) const {
  return root_ == nullptr || MatchesNode(*root_, lookup);
}

}  // namespace graft::rpc
