// One row to token ids and the mask of what is learnt.
#include "worker/data/dataset/tokenize_row.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace graft::data {
namespace {

Json Message(absl::string_view role, absl::string_view content) {
  Json message = Json::MakeObject();
  message.Set("role", role).Set("content", content);
  return message;
}

// The members of `more` over those of `base`.
Json Merged(const Json* base, const Json& more) {
  Json merged = base == nullptr ? Json::MakeObject() : *base;
  if (!more.is_object()) return merged;
  for (const auto& [name, value] : more.as_object()) merged.Set(name, value);
  return merged;
}

class RowTokenizer {
 public:
  RowTokenizer(const Tokenizer& tokenizer, const TokenizeOptions& options, Encoding& buffers)
      : tokenizer_(tokenizer), options_(options), encoding_(buffers) {}

  absl::StatusOr<std::vector<TokenizedRow>> Run(RowFormat format, const Row& row) {
    std::vector<TokenizedRow> out;
    if (format == RowFormat::kPreference) {
      GRAFT_ASSIGN_OR_RETURN(TokenizedRow chosen, Answer(row, row.chosen, row.chosen_messages));
      GRAFT_ASSIGN_OR_RETURN(TokenizedRow rejected,
                             Answer(row, row.rejected, row.rejected_messages));
      out.push_back(std::move(chosen));
      out.push_back(std::move(rejected));
    } else {
      GRAFT_ASSIGN_OR_RETURN(TokenizedRow only,
                             format == RowFormat::kChat ? Chat(row.messages, row.tools, row.kwargs)
                             : format == RowFormat::kText ? Text(row.text)
                                                          : PromptCompletion(row));
      out.push_back(std::move(only));
    }
    for (TokenizedRow& tokens : out) {
      if (options_.loss_on == LossOn::kAll && format != RowFormat::kPreference) {
        std::fill(tokens.mask.begin(), tokens.mask.end(), 1);
      }
      if (!tokens.mask.empty()) tokens.mask[0] = 0;
    }
    return out;
  }

 private:
  absl::Status Encode(absl::string_view text, bool special, Encoding& out) const {
    return tokenizer_.EncodeInto(text, {.add_special_tokens = special, .offsets = true}, out);
  }

  void AppendEos(TokenizedRow& row) const {
    if (options_.eos_token_id < 0) return;
    if (!row.ids.empty() && row.ids.back() == options_.eos_token_id) {
      row.mask.back() = 1;
      return;
    }
    row.ids.push_back(options_.eos_token_id);
    row.mask.push_back(1);
  }

  // A conversation, behind the system message of the options where it has none of its own.
  absl::StatusOr<TokenizedRow> Chat(const Json& messages, const Json& tools, const Json& kwargs) {
    const Json::Array& given = messages.as_array();
    if (options_.system.empty() || (!given.empty() && given[0].GetString("role") == "system")) {
      return Conversation(messages, tools, kwargs);
    }
    Json with_system = Json::MakeArray();
    with_system.Append(Message("system", options_.system));
    for (const Json& message : given) with_system.Append(message);
    return Conversation(with_system, tools, kwargs);
  }

  absl::StatusOr<TokenizedRow> Conversation(const Json& messages, const Json& tools,
                                            const Json& kwargs) {
    if (options_.chat == nullptr) {
      return absl::FailedPreconditionError(
          "the rows are conversations and the model has no chat template; give one, or use "
          "prompt/completion rows");
    }
    const Json merged = Merged(options_.chat_kwargs, kwargs);
    ChatInput input;
    input.messages = &messages;
    input.tools = tools.is_null() ? nullptr : &tools;
    input.kwargs = &merged;
    input.bos_token = options_.bos_token;
    input.eos_token = options_.eos_token;
    input.now = options_.now;
    input.end_of_turn = options_.end_of_turn;
    GRAFT_ASSIGN_OR_RETURN(RenderedChat chat, options_.chat->Render(input));
    GRAFT_RETURN_IF_ERROR(Encode(chat.text, /*special=*/false, encoding_));
    TokenizedRow row;
    row.supervised = std::move(chat.assistant_spans);
    if (options_.loss_on == LossOn::kLastAnswer && row.supervised.size() > 1) {
      row.supervised.erase(row.supervised.begin(), row.supervised.end() - 1);
    }
    row.ids = encoding_.ids;
    row.mask.assign(row.ids.size(), 0);
    MarkSpans(row);
    const bool ends_in_answer = !row.mask.empty() && row.mask.back() != 0;
    if (ends_in_answer && !chat.ends_with_end_of_turn) AppendEos(row);
    row.text = std::move(chat.text);
    return row;
  }

  // A token is learnt where it shares a byte with a span.
  void MarkSpans(TokenizedRow& row) const {
    size_t token = 0;
    for (const ByteSpan& span : row.supervised) {
      while (token < row.ids.size() && encoding_.offsets[token].second <= span.begin) ++token;
      for (; token < row.ids.size() && encoding_.offsets[token].first < span.end; ++token) {
        row.mask[token] = 1;
      }
    }
  }

  // `prompt` and `answer` as text: encoded together where the prompt's tokens stay what they are
  // alone, so that the model is trained on the very tokens it meets; apart otherwise.
  absl::StatusOr<TokenizedRow> PromptAnswer(const std::string& prompt, const std::string& answer) {
    TokenizedRow row;
    row.text = absl::StrCat(prompt, answer);
    row.supervised = {{prompt.size(), row.text.size()}};
    GRAFT_RETURN_IF_ERROR(Encode(prompt, /*special=*/true, encoding_));
    std::vector<int32_t> head = encoding_.ids;
    if (!head.empty() && head.back() == options_.eos_token_id) head.pop_back();
    GRAFT_RETURN_IF_ERROR(Encode(row.text, /*special=*/true, encoding_));
    row.ids = encoding_.ids;
    const bool is_prefix =
        row.ids.size() > head.size() && std::equal(head.begin(), head.end(), row.ids.begin());
    if (!is_prefix) {
      row.ids = head;
      GRAFT_RETURN_IF_ERROR(Encode(answer, /*special=*/false, encoding_));
      row.ids.insert(row.ids.end(), encoding_.ids.begin(), encoding_.ids.end());
    }
    row.mask.assign(row.ids.size(), 1);
    std::fill(row.mask.begin(), row.mask.begin() + static_cast<ptrdiff_t>(head.size()), 0);
    AppendEos(row);
    return row;
  }

  absl::StatusOr<TokenizedRow> PromptCompletion(const Row& row) {
    if (row.messages.is_array()) return Chat(row.messages, row.tools, row.kwargs);
    if (!options_.apply_chat_template) return PromptAnswer(row.prompt, row.completion);
    Json messages = Json::MakeArray();
    messages.Append(Message("user", row.prompt));
    messages.Append(Message("assistant", row.completion));
    return Chat(messages, row.tools, row.kwargs);
  }

  absl::StatusOr<TokenizedRow> Text(const std::string& text) {
    TokenizedRow row;
    GRAFT_RETURN_IF_ERROR(Encode(text, /*special=*/true, encoding_));
    row.ids = encoding_.ids;
    row.mask.assign(row.ids.size(), 1);
    row.text = text;
    row.supervised = {{0, text.size()}};
    AppendEos(row);
    return row;
  }

  // The prompt with one of its answers.
  absl::StatusOr<TokenizedRow> Answer(const Row& row, const std::string& text,
                                      const Json& messages) {
    if (!messages.is_array()) return PromptAnswer(row.prompt, text);
    Json all = Json::MakeArray();
    for (Json message : row.messages.as_array()) {
      message.Set("train", false);
      all.Append(std::move(message));
    }
    for (const Json& message : messages.as_array()) all.Append(message);
    return Chat(all, row.tools, row.kwargs);
  }

  const Tokenizer& tokenizer_;
  const TokenizeOptions& options_;
  Encoding& encoding_;
};

}  // namespace

absl::StatusOr<std::vector<TokenizedRow>> TokenizeRow(RowFormat format, const Row& row,
                                                      const Tokenizer& tokenizer,
                                                      const TokenizeOptions& options,
                                                      Encoding& buffers) {
  return RowTokenizer(tokenizer, options, buffers).Run(format, row);
}

absl::StatusOr<std::vector<TokenizedRow>> TokenizeRow(RowFormat format, const Row& row,
                                                      const Tokenizer& tokenizer,
                                                      const TokenizeOptions& options) {
  Encoding buffers;
  return TokenizeRow(format, row, tokenizer, options, buffers);
}

std::string HighlightSupervised(const TokenizedRow& row, absl::string_view on,
                                absl::string_view off) {
  std::string out;
  size_t pos = 0;
  for (const ByteSpan& span : row.supervised) {
    absl::StrAppend(&out, row.text.substr(pos, span.begin - pos), on,
                    row.text.substr(span.begin, span.end - span.begin), off);
    pos = span.end;
  }
  return absl::StrCat(out, row.text.substr(pos));
}

}  // namespace graft::data
