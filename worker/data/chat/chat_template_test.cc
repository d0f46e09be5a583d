#include "worker/data/chat/chat_template.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Json Messages(absl::string_view text) {
  auto json = Json::Parse(text);
  EXPECT_THAT(json, IsOk());
  return *std::move(json);
}

absl::StatusOr<RenderedChat> Render(absl::string_view source, const Json& messages,
                                    ChatInput input = {}) {
  GRAFT_ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::Compile(source));
  input.messages = &messages;
  return chat.Render(input);
}

absl::Status ErrorOf(absl::string_view source, const RenderLimits& limits = {}) {
  ChatInput input;
  input.limits = limits;
  return Render(source, Messages(R"([{"role":"user","content":"hi"}])"), input).status();
}

std::vector<std::string> SpansOf(const RenderedChat& chat) {
  std::vector<std::string> spans;
  for (const ByteSpan& span : chat.assistant_spans) {
    spans.push_back(chat.text.substr(span.begin, span.end - span.begin));
  }
  return spans;
}

// What transformers made of the cases of tests/parity/template/make_golden.py.
TEST(ChatTemplateTest, RendersEveryGoldenCaseAsTransformersDoes) {
  const char* root = std::getenv("GRAFT_SOURCE_DIR");
  const auto text =
      ReadFile(JoinPath(root == nullptr ? "." : root, "tests/parity/template/golden.json"));
  ASSERT_THAT(text, IsOk());
  const Json golden = Messages(*text);
  int compared = 0;
  for (const Json& test : golden.Find("cases")->as_array()) {
    const std::string source = test.GetString("template");
    SCOPED_TRACE(source + " over " + test.GetString("messages"));
    ChatInput input;
    input.tools = test.Find("tools") != nullptr ? golden.Find("tools") : nullptr;
    input.add_generation_prompt = test.GetBool("add_generation_prompt");
    input.bos_token = "<s>";
    input.eos_token = "</s>";
    input.now = absl::FromUnixSeconds(golden.GetInt("now"));
    const auto got =
        Render(source, *golden.Find("conversations")->Find(test.GetString("messages")), input);
    ++compared;
    const Json* want = test.Find("text");
    ASSERT_EQ(got.ok(), want != nullptr) << got.status() << " wanted " << test.GetString("error");
    if (want == nullptr) continue;
    EXPECT_EQ(got->text, want->as_string());
    const Json* generated = test.Find("generated");
    if (generated == nullptr) continue;
    std::vector<ByteSpan> spans;
    for (const Json& span : generated->as_array()) {
      spans.push_back({static_cast<size_t>(span.as_array()[0].as_int()),
                       static_cast<size_t>(span.as_array()[1].as_int())});
    }
    EXPECT_EQ(got->assistant_spans, spans);
  }
  EXPECT_GT(compared, 200);
}

constexpr absl::string_view kChatMl =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}"
    "{% if m.tool_calls %}\n<call>{{ m.tool_calls | tojson }}</call>{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

TEST(AssistantSpansTest, AnswersAreKnownWithoutGenerationBlocks) {
  const Json messages =
      Messages(R"([{"role":"system","content":"s"},{"role":"user","content":"assistant"},)"
               R"({"role":"assistant","content":" one "},{"role":"user","content":"one"},)"
               R"({"role":"assistant","content":"two","tool_calls":[{"function":{"name":"f"}}]}])");
  const auto chat = Render(kChatMl, messages);
  ASSERT_THAT(chat, IsOk());
  EXPECT_EQ(chat->span_source, SpanSource::kProvenance);
  EXPECT_TRUE(chat->ends_with_end_of_turn);
  EXPECT_THAT(SpansOf(*chat),
              ElementsAre("one<|im_end|>",
                          "two<call>[{\"function\": {\"name\": \"f\"}}]</call><|im_end|>"));
}

TEST(AssistantSpansTest, WhatTheTemplateWritesBehindThePromptIsTheModelsToWrite) {
  const auto chat = Render(
      "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}<think>\n\n</think>\n"
      "{% endif %}{{ m.content }}<|end|>{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}",
      Messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"}])"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_THAT(SpansOf(*chat), ElementsAre("<think>\n\n</think>\na<|end|>"));
}

TEST(AssistantSpansTest, ProvenanceSurvivesStringOperations) {
  const auto chat = Render(
      "{% set ns = namespace(t='') %}{% for m in messages %}{% set c = m.content.split('|')[-1]"
      " | replace('x', 'yy') %}{% set ns.t = ns.t ~ '[' ~ m.role ~ ']' ~ c[1:].upper() ~ '</s>' %}"
      "{% endfor %}{{ ns.t }}",
      Messages(R"([{"role":"user","content":"u|quser"},{"role":"assistant","content":"a|bxcé"}])"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_EQ(chat->text, "[user]USER</s>[assistant]YYCÉ</s>");
  // The replaced bytes are the template's, what stands between the answer's bytes is learnt.
  ASSERT_EQ(chat->assistant_spans.size(), 1u);
  EXPECT_TRUE(absl::EndsWith(SpansOf(*chat)[0], "CÉ</s>"));
}

TEST(AssistantSpansTest, MessagesCanBeLeftOut) {
  const auto chat = Render(kChatMl, Messages(R"([{"role":"user","content":"q"},)"
                                             R"({"role":"assistant","content":"a","weight":0},)"
                                             R"({"role":"assistant","content":"b"}])"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_THAT(SpansOf(*chat), ElementsAre("b<|im_end|>"));
}

TEST(AssistantSpansTest, ATurnWithoutEndOfTurnSaysSo) {
  const auto chat =
      Render("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
             Messages(R"([{"role":"user","content":"q"},{"role":"assistant","content":"a"}])"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_FALSE(chat->ends_with_end_of_turn);
  EXPECT_THAT(SpansOf(*chat), ElementsAre("assistant: a"));
}

TEST(AssistantSpansTest, ATemplateThatDropsTheAnswerHasNoSpans) {
  const auto chat = Render("nothing", Messages(R"([{"role":"assistant","content":"a"}])"));
  ASSERT_THAT(chat, IsOk());
  EXPECT_EQ(chat->span_source, SpanSource::kNone);
  EXPECT_THAT(chat->assistant_spans, IsEmpty());
}

TEST(ChatTemplateTest, ErrorsNameTheLineAndTheTemplatesOwnWords) {
  EXPECT_THAT(ErrorOf("\n\n{{ raise_exception('roles must alternate') }}"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("line 3"), HasSubstr("roles must alternate"))));
  EXPECT_THAT(ErrorOf("\n{{ messages[0].nope.deeper }}"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("line 2"), HasSubstr("'nope' is undefined"))));
  EXPECT_THAT(ErrorOf("{% if x %}"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ErrorOf("{% include 'x' %}"), StatusIs(absl::StatusCode::kUnimplemented));
}

TEST(ChatTemplateTest, HostileTemplatesAreBounded) {
  const absl::StatusCode full = absl::StatusCode::kResourceExhausted;
  RenderLimits limits;
  limits.max_steps = 100'000;
  limits.max_output_bytes = 1 << 20;
  limits.max_memory_bytes = 8 << 20;
  for (const absl::string_view hostile : {
           "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
           "{% set ns = namespace(s='ab') %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}{% "
           "endfor %}",
           "{{ 'x' * 1000000000000 }}",
           "{{ [0] * 1000000000000 }}",
           "{{ 'x'.ljust(1000000000000) }}",
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [ns.l] "
           "%}{% endfor %}",
       }) {
    EXPECT_THAT(ErrorOf(hostile, limits), StatusIs(full)) << hostile;
  }
  EXPECT_THAT(ErrorOf("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nests deeper")));
  std::string sum = "{{ 1";
  for (int i = 0; i < 5000; ++i) sum += "+1";
  EXPECT_THAT(ErrorOf(sum + " }}"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(
      ErrorOf("{% set ns = namespace(l=[]) %}{% for i in range(2000) %}{% set ns.l = [ns.l] %}"
              "{% endfor %}{{ ns.l | tojson }}"),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nests too deep")));
}

TEST(FindChatTemplateTest, TakesTheFileTheStringOrTheNamedOne) {
  const Json one = Messages(R"({"chat_template":"a"})");
  const Json many = Messages(
      R"({"chat_template":[{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]})");
  EXPECT_EQ(*FindChatTemplate(&one, ""), "a");
  EXPECT_EQ(*FindChatTemplate(&one, "file"), "file");
  EXPECT_EQ(*FindChatTemplate(&many, "", "tool_use"), "t");
  EXPECT_THAT(FindChatTemplate(&many, "", "rag").status(), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(FindChatTemplate(nullptr, "").status(), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace graft::data
