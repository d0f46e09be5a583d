"""Chat templates as transformers renders them: the reference of the template tests."""
import datetime
import re

from transformers.utils import chat_template_utils

NOW = 1_700_000_000  # 2023-11-14 22:13:20 UTC


class FrozenDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = FrozenDatetime

GENERATION = re.compile(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}")


def without_generation(template):
    """The template with its generation blocks made invisible, white-space control kept."""
    return GENERATION.sub(
        lambda m: "{%" + m[1] + (" endif " if m[2] else " if true ") + m[3] + "%}", template)


def render(case):
    """{"text", "generated"} or {"error"}; byte offsets."""
    kwargs = dict(case.get("kwargs") or {})
    for name in ("bos_token", "eos_token"):
        if case.get(name):
            kwargs.setdefault(name, case[name])
    blocks = GENERATION.search(case["template"]) is not None
    try:
        texts, indices = chat_template_utils.render_jinja_template(
            conversations=[case["messages"]],
            tools=case.get("tools"),
            documents=case.get("documents"),
            chat_template=case["template"],
            return_assistant_tokens_mask=blocks,
            add_generation_prompt=case.get("add_generation_prompt", False),
            **kwargs)
        texts[0].encode()
    except Exception as error:  # whatever jinja2 or the template raises
        return {"error": f"{type(error).__name__}: {error}"}
    text = texts[0]
    generated = [[len(text[:a].encode()), len(text[:b].encode())] for a, b in (indices[0] if blocks else [])]
    return {"text": text, "generated": generated, "blocks": blocks}
