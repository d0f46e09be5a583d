// Sums, products and what strings make of them: the arithmetic of expressions.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "worker/data/chat/jinja_chars.h"
#include "worker/data/chat/jinja_interpreter.h"

namespace graft::jinja {

const Str& Interpreter::ToStr(const Value& value) {
  if (value.is_string()) return value.str();
  Text text(arena_);
  AppendStr(value, text);
  return *text.Finish();
}

Value Interpreter::EvalConcat(const Expr& expr) {
  absl::InlinedVector<const Str*, 8> pieces;
  for (const ExprPtr& item : expr.items) {
    const Value value = Eval(*item);
    if (failed_) return Value();
    pieces.push_back(&ToStr(value));
  }
  return Value::String(JoinStrs(arena_, pieces));
}

namespace {

bool IsPlainString(const Value& value) { return value.is_string() && !value.str().markup; }

}  // namespace

// a + b + c ... : strings that follow one another are joined at once.
Value Interpreter::EvalSum(const Expr& expr) {
  const Expr* node = &expr;
  absl::InlinedVector<const Expr*, 8> rest;
  for (; node->kind == ExprKind::kAdd; node = node->a.get()) rest.push_back(node->b.get());
  Value sum = Eval(*node);
  absl::InlinedVector<const Str*, 8> pieces;
  const auto join = [&] {
    if (pieces.empty()) return;
    sum = Value::String(JoinStrs(arena_, pieces));
    pieces.clear();
  };
  for (; !failed_ && !rest.empty(); rest.pop_back()) {
    const Value next = Eval(*rest.back());
    if (failed_) break;
    if (!IsPlainString(sum) || !IsPlainString(next)) {
      join();
      sum = Add(sum, next);
      continue;
    }
    if (pieces.empty()) pieces.push_back(&sum.str());
    pieces.push_back(&next.str());
  }
  join();
  return failed_ ? Value() : sum;
}

Value Interpreter::Negate(const Value& value, bool negative) {
  if (failed_) return Value();
  if (value.is_integral()) {
    int64_t result = value.as_int();
    if (negative && __builtin_sub_overflow(int64_t{0}, result, &result)) {
      return Fail("integer overflow");
    }
    return Value::Int(result);
  }
  if (value.is_float()) return Value::Float(negative ? -value.as_float() : value.as_float());
  if (value.is_undefined()) return FailUndefined(value);
  return Fail(absl::StrCat("bad operand type for unary ", negative ? "-" : "+", ": '",
                           TypeName(value), "'"));
}

namespace {

void AppendMarkup(const Str& text, bool escape, Text& out) {
  if (escape && !text.markup) {
    AppendEscaped(text, out);
  } else {
    out.Append(text);
  }
}

}  // namespace

Value Interpreter::Add(const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.str().markup || b.str().markup;
    if (!markup) {
      const Str* const pieces[] = {&a.str(), &b.str()};
      return Value::String(JoinStrs(arena_, pieces));
    }
    Text text(arena_);
    AppendMarkup(a.str(), markup, text);
    AppendMarkup(b.str(), markup, text);
    return Value::String(text.Finish(markup));
  }
  if ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())) {
    const Value result = NewList(arena_, a.kind(), a.list().size + b.list().size);
    for (const Value& item : a.list()) result.list().Push(arena_, item);
    for (const Value& item : b.list()) result.list().Push(arena_, item);
    Charge(result.list().size / 8);
    return result;
  }
  if (a.is_integral() && b.is_integral()) return Integers(ExprKind::kAdd, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return Floats(ExprKind::kAdd, a.as_float(), b.as_float());
  if (a.is_undefined()) return FailUndefined(a);
  if (b.is_undefined()) return FailUndefined(b);
  if (a.is_string()) {
    return Fail(absl::StrCat("can only concatenate str (not \"", TypeName(b), "\") to str"));
  }
  return Fail(
      absl::StrCat("unsupported operand types for +: '", TypeName(a), "' and '", TypeName(b), "'"));
}

Value Interpreter::RepeatValue(const Value& sequence, int64_t times) {
  if (sequence.is_string()) {
    Text text(arena_);
    const Str& piece = sequence.str();
    if (times > 0 && piece.size > 0 && times > arena_.max_text() / piece.size) {
      arena_.Exhaust();
      times = 0;
    }
    for (int64_t i = 0; i < times; ++i) text.Append(piece);
    return text.FinishValue();
  }
  const Value result = NewList(arena_, sequence.kind());
  if (sequence.list().size == 0) return result;
  for (int64_t i = 0; i < times && !arena_.exhausted(); ++i) {
    for (const Value& item : sequence.list()) result.list().Push(arena_, item);
  }
  return result;
}

Value Interpreter::Multiply(const Value& a, const Value& b) {
  const auto repeats = [](const Value& v) { return v.is_string() || v.is_list() || v.is_tuple(); };
  if (repeats(a) && b.is_integral()) return RepeatValue(a, b.as_int());
  if (repeats(b) && a.is_integral()) return RepeatValue(b, a.as_int());
  return Fail(
      absl::StrCat("unsupported operand types for *: '", TypeName(a), "' and '", TypeName(b), "'"));
}

namespace {

int64_t FloorDivide(int64_t a, int64_t b) {
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

// Exact or nothing.
bool IntegerPower(int64_t base, int64_t exponent, int64_t& result) {
  result = 1;
  if (base == 0 || base == 1) {
    if (exponent > 0) result = base;
    return true;
  }
  for (int64_t i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) return false;
  }
  return true;
}

}  // namespace

Value Interpreter::Integers(ExprKind kind, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  switch (kind) {
    case ExprKind::kAdd:
      overflow = __builtin_add_overflow(a, b, &result);
      break;
    case ExprKind::kSub:
      overflow = __builtin_sub_overflow(a, b, &result);
      break;
    case ExprKind::kMul:
      overflow = __builtin_mul_overflow(a, b, &result);
      break;
    case ExprKind::kPow:
      if (b < 0) return Floats(kind, static_cast<double>(a), static_cast<double>(b));
      if (a == -1) return Value::Int(b % 2 == 0 ? 1 : -1);
      overflow = !IntegerPower(a, b, result);
      break;
    default:
      if (b == 0) return Fail("division by zero");
      if (kind == ExprKind::kDiv) {
        return Value::Float(static_cast<double>(a) / static_cast<double>(b));
      }
      if (b == -1) return kind == ExprKind::kMod ? Value::Int(0) : Negate(Value::Int(a), true);
      result = FloorDivide(a, b);
      if (kind == ExprKind::kMod) result = a - result * b;
  }
  return overflow ? Fail("integers of more than 64 bits are not supported") : Value::Int(result);
}

Value Interpreter::Floats(ExprKind kind, double a, double b) {
  switch (kind) {
    case ExprKind::kAdd:
      return Value::Float(a + b);
    case ExprKind::kSub:
      return Value::Float(a - b);
    case ExprKind::kMul:
      return Value::Float(a * b);
    case ExprKind::kPow:
      if (a == 0 && b < 0) return Fail("0.0 cannot be raised to a negative power");
      return Value::Float(std::pow(a, b));
    default:
      break;
  }
  if (b == 0) return Fail("float division by zero");
  if (kind == ExprKind::kDiv) return Value::Float(a / b);
  const double remainder = std::fmod(a, b);
  const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
  if (kind == ExprKind::kMod) {
    if (remainder == 0) return Value::Float(std::copysign(0.0, b));
    return Value::Float(adjust ? remainder + b : remainder);
  }
  return Value::Float(std::round((a - (adjust ? remainder + b : remainder)) / b));
}

Value Interpreter::EvalArithmetic(const Expr& expr) {
  const Value a = Eval(*expr.a);
  if (failed_) return Value();
  const Value b = Eval(*expr.b);
  if (failed_) return Value();
  if (a.is_integral() && b.is_integral()) return Integers(expr.kind, a.as_int(), b.as_int());
  if (a.is_number() && b.is_number()) return Floats(expr.kind, a.as_float(), b.as_float());
  if (a.is_undefined()) return FailUndefined(a);
  if (expr.kind == ExprKind::kMod && a.is_string()) return PercentFormat(*this, a.str(), b);
  if (b.is_undefined()) return FailUndefined(b);
  if (expr.kind == ExprKind::kMul) return Multiply(a, b);
  return Fail(
      absl::StrCat("unsupported operand types: '", TypeName(a), "' and '", TypeName(b), "'"));
}

}  // namespace graft::jinja
