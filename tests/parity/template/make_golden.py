"""Writes golden.json: templates of our own, over every feature, with what transformers makes of
them. Run it with the python that tests/parity/setup.sh prints, after changing a case."""
import json
import os

import reference
from conversations import CONVERSATIONS, TOOLS

# One feature a line; {{ }} of Jinja, rendered over the conversation "tools_two" unless named.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 1 / 3 }}
{{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.0 }} {{ 123456789.123 }} {{ 1_000 }} {{ 0x1F }}
{{ 'a' ~ 1 ~ none ~ true ~ [1, 'x'] ~ {'k': 1.5} ~ ('t',) }}
{{ "a'b" ~ ['a\'b', "q\"q", 'both\'"', 'nl\n', '\t', '\x07', 'é', '\u2028'] }}
{{ 1 < 2 < 3 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' in 'abc' }} {{ 'x' not in ['x'] }} {{ 'role' in messages[0] }}
{{ messages[0].role if false }}|{{ 'yes' if messages else 'no' }}|{{ undefined_thing }}|{{ undefined_thing is defined }}
{{ not 1 }} {{ 1 and 2 }} {{ 0 or 'x' }} {{ none or [] }} {{ (1, 2) + (3,) }} {{ [1] + [2] }} {{ 'ab' * 3 }} {{ [0] * 3 }}
{{ 'héllo'[1] }} {{ 'héllo'[1:3] }} {{ 'héllo'[::-1] }} {{ 'héllo'[-2:] }} {{ [1,2,3,4][1:] }} {{ [1,2,3,4][::-2] }} {{ (1,2,3)[:2] }}
{{ messages[-1].content }} {{ messages[99] is defined }} {{ messages[0]['role'] }} {{ messages[0].missing is undefined }} {{ messages.0.role }}
{% for m in messages %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }};{% endfor %}
{% for m in messages %}{{ loop.previtem.role if not loop.first }}>{{ m.role }}>{{ loop.nextitem.role if not loop.last }};{% endfor %}
{% for m in messages if m.role == 'tool' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}
{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{% for k in messages[0] %}{{ k }}{% endfor %}
{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in range(3) recursive %}{{ i }}{% if i == 1 %}({{ loop([7, 8]) }}){% endif %}{{ loop.depth }}{% endfor %}
{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(n=0, s='') %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ ns.missing is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}block {{ a }}{% endset %}{{ t }}{% set u | upper | trim %} up {% endset %}[{{ u }}]
{% macro m(a, b='d', c=none) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, 2, 3, 4, z=5) }}|{{ m(b='x', a='y') }}
{% macro outer() %}<{{ caller('in') }}>{% endmacro %}{% call(x) outer() %}{{ x }}{{ messages | length }}{% endcall %}
{% macro fact(n) %}{% if n > 1 %}{{ n }}*{{ fact(n - 1) }}{% else %}1{% endif %}{% endmacro %}{{ fact(5) }}
{% filter upper | replace('A', 'x') %}banana {{ messages[0].role }}{% endfilter %}
{% with a = 1, b = 2 %}{{ a + b }}{% with a = 5 %}{{ a }}{% endwith %}{{ a }}{% endwith %}
{% raw %}{{ raw }} {% if %}{% endraw %}{# comment #}{#- trimmed -#}  end
{{ tools | tojson }}
{{ tools | tojson(indent=2) }}{{ tools[0] | tojson(indent=4, sort_keys=true) }}{{ [] | tojson(indent=1) }}{{ {} | tojson }}
{{ ['é', '"', '\\', '\n', '\u0007', '/', '<&>', '𝄞'] | tojson }}{{ ['é', '𝄞'] | tojson(ensure_ascii=true) }}{{ [1.0, 2.5e-7, none, true] | tojson(separators=(',', ':')) }}
{{ {'b': 1, 'a': [1, {'x': none}]} | tojson }}{{ {1: 2, none: 3, true: 4, 1.5: 5} | tojson }}{{ (1, 2) | tojson }}
{{ '  pad ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ ' a ' | length }}|{{ 'a,b' | replace(',', ';') }}|{{ 'aaa' | replace('a', 'b', 2) }}|{{ 'ab' | replace('', '-') }}
{{ 'hello world-foo (bar)' | title }} {{ 'hELLO' | capitalize }} {{ 'ß é' | upper }} {{ 'ÀÉ' | lower }} {{ 42 | string }} {{ none | string }}
{{ 'b\na\n\nc' | indent }}|{{ 'b\na' | indent(2, true) }}|{{ 'b\n\na' | indent('> ', false, true) }}
{{ [3, 1, 2] | sort }} {{ ['b', 'A', 'c'] | sort }} {{ ['b', 'A', 'c'] | sort(case_sensitive=true) }} {{ [3, 1] | sort(reverse=true) }} {{ messages | sort(attribute='role') | map(attribute='role') | join(',') }}
{{ [1, 2, 2, 1] | unique | list }} {{ [3, 1] | min }} {{ ['a', 'B'] | max }} {{ [1, 2, 3] | sum }} {{ messages | sum(attribute='n', start=0) if false }} {{ [] | min }}
{{ messages | map(attribute='role') | list }} {{ ['a', 'b'] | map('upper') | join('-') }} {{ messages | map(attribute='x', default='-') | join }}
{{ messages | selectattr('role', 'equalto', 'tool') | list | length }} {{ messages | rejectattr('tool_calls') | list | length }} {{ [1, 2, 3] | select('odd') | list }} {{ [0, 1] | reject | list }} {{ messages | selectattr('tool_calls', 'defined') | first | length }}
{{ {'b': 2, 'a': 1} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value', reverse=true) }} {{ {'x': 1} | items | list }} {{ undefined_thing | items | list }}
{{ [1, 2] | first }} {{ [1, 2] | last }} {{ [] | first }} {{ 'abc' | last }} {{ 'abc' | list }} {{ [1, 2, 3] | reverse | list }} {{ 'abc' | reverse }}
{{ undefined_thing | default('d') }} {{ '' | default('d') }} {{ '' | default('d', true) }} {{ none | d('x') }} {{ 0 | d('x', boolean=true) }}
{{ '42' | int }} {{ 'x' | int(7) }} {{ '3.9' | int }} {{ 3.9 | int }} {{ 'ff' | int(base=16) }} {{ '1.5' | float }} {{ 'x' | float }} {{ -3 | abs }} {{ 2.675 | round(2) }} {{ 2.5 | round }} {{ 2.1 | round(0, 'ceil') }} {{ 25 | round(-1) }}
{{ '%s is %d and %.2f%%' | format('x', 3, 1.5) }} {{ '%(a)s' | format(a=1) }} {{ '%05d|%-4s|%4s|%x|%r' % (42, 'a', 'b', 255, 'q') }} {{ '%s' % 'one' }}
{{ '{} {1} {0!r} {k:>5} {n:05.1f} {m:,}'.format('a', 'b', k='c', n=2.25, m=1234567) if false }}{{ '{0} {1} {0!r} {k:>5} {n:06.1f} {m:,} {{}}'.format('a', 'b', k='c', n=2.25, m=1234567) }}
{{ '<a> & "b"' | e }} {{ ('<' | safe) + '>' }} {{ '<' | escape | escape }} {{ '<' | e ~ '<' }} {{ 'a b/ü' | urlencode }} {{ 'one two  three' | wordcount }} {{ 'x' | center(5) }}|
{{ 'hello big world' | truncate(9) }} {{ 'hello big world' | truncate(9, true, '..', 0) }} {{ [1,2,3,4,5] | batch(2, 0) | list }} {{ [1,2,3,4,5] | slice(2) | list }}
{% for g, items in messages | groupby('role') %}{{ g }}:{{ items | length }};{% endfor %}
{{ ' a b '.strip() }}|{{ 'xax'.lstrip('x') }}|{{ 'xax'.rstrip('x') }}|{{ 'a b  c'.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b '.split(none, 1) }}|{{ 'a\nb\r\nc'.splitlines() }}
{{ 'abc'.startswith('a') }} {{ 'abc'.endswith(('x', 'c')) }} {{ 'abc'.find('c') }} {{ 'abc'.find('z') }} {{ 'aXbX'.replace('X', '-', 1) }} {{ 'a-b'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abab'.count('ab') }} {{ 'hello wORLD'.title() }} {{ 'aB'.swapcase() }} {{ 'hello'.capitalize() }}
{{ 'ab'.upper() }} {{ 'x'.join(['a', 'b']) }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ '7'.zfill(3) }} {{ 'a'.ljust(3) }}| {{ 'a'.rjust(3, '.') }} {{ 'ab'.center(5, '*') }} {{ 'abc'.isdigit() }} {{ '12'.isdigit() }} {{ 'aB'.isalpha() }} {{ ' '.isspace() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }}
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys() | list }} {{ {'a': 1}.values() | list }} {{ {'a': 1}.items() }} {{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }}
{{ 1 is number }} {{ 'a' is string }} {{ [] is sequence }} {{ {} is mapping }} {{ none is none }} {{ true is boolean }} {{ 1 is integer }} {{ 1.0 is float }} {{ [] is iterable }} {{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby(3) }} {{ 9 is divisibleby 3 }} {{ true is true }} {{ 0 is false }} {{ 'a' is in 'abc' }} {{ 1 is eq 1 }} {{ 1 is ne 2 }} {{ 2 is gt 1 }} {{ 'A' is upper }} {{ 'x' is not none }} {{ 1 is sameas 1 }} {{ range is callable }} {{ 'upper' is filter }} {{ 'odd' is test }}
{{ range(3) | list }} {{ range(1, 6, 2) | list }} {{ range(3, 0, -1) | list }} {{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %A %a %j %p %I %y %%') }}
{% set j = joiner(', ') %}{{ j() }}a{{ j() }}b{{ j() }}c{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}
  {% if true %}  
    indented {{ 1 }}   
  {%- endif +%}  
 {%+ if true %} keep{% endif %}	{% if false %}{% elif 1 %} elif {% else %} else {% endif %}
a   {{- ' b ' -}}   c {%- if true -%}   d   {%- endif -%}  e
{{ raise_exception('stop here') }}
{{ messages[0].missing.deeper }}
{{ undefined_thing.attribute }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ none | length }}
{{ 1 / 0 }}
{{ [3, 'a'] | sort }}
{{ messages.append(1) }}
{{ {}.update(a=1) }}
{{ 'x'.nothing() }}
{{ undefined_thing() }}
{{ 'x' | no_such_filter }}
{{ 'x' is no_such_test }}
{{ ''.__class__ }}{{ [].__class__.__mro__ }}
{% set x.y = 1 %}
{% for a, b in [[1, 2, 3]] %}{% endfor %}
{{ range(1000000) | length }}
{% if %}x{% endif %}
{% for x in y %}
{{ unclosed
{% endif %}
{% unknown_tag %}
{{ 'abc }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{{ namespace(_x=1) }}
{{ undefined_thing | tojson }}
{{ undefined_thing + 'x' }}{{ undefined_thing ~ 'x' }}
{{ undefined_thing ~ 'x' }}{{ undefined_thing == undefined_thing }}{% for x in undefined_thing %}{% endfor %}{{ 'a' in undefined_thing }}
{% for c in 'hé' %}{{ c }}.{% endfor %}{{ 5 in [1, 5] }}{{ '5' in '150' }}{% for x in 5 %}{% endfor %}
{{ messages | map('upper') | first | length }}{{ [[1, 'a'], [2, 'b']] | map(attribute=1) | join }}{{ [{'a': {'b': 7}}] | map(attribute='a.b') | join }}
{{ (messages | selectattr('role', 'eq', 'nobody')) is defined }}{% if messages | selectattr('role', 'eq', 'nobody') %}generators are true{% endif %}
""".strip("\n").split("\n")

CHATML = r"""{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}
        {{- message.content | trim }}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n' ~ call.function | tojson ~ '\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
"""
BRACKETS = r"""{{ bos_token }}{% for message in messages %}
{% if message.role == 'user' %}
[INST] {{ message.content }} [/INST]
{% elif message.role == 'assistant' %}
{{ ' ' + message.content + eos_token }}
{% endif %}
{% endfor %}"""


def golden():
    out = []
    for snippet in SNIPPETS:
        case = {"template": snippet, "messages": "tools_two", "tools": True}
        out.append(case)
    for template in (CHATML, reference.without_generation(CHATML), BRACKETS):
        for name in CONVERSATIONS:
            for prompt in (False, True):
                out.append({"template": template, "messages": name, "add_generation_prompt": prompt})
    for case in out:
        full = {**case, "messages": CONVERSATIONS[case["messages"]], "tools": TOOLS if case.get("tools") else None,
                "bos_token": "<s>", "eos_token": "</s>"}
        want = reference.render(full)
        if "error" in want:
            case["error"] = want["error"]
        else:
            case["text"] = want["text"]
            if want["blocks"]:
                case["generated"] = [s for s in want["generated"] if s[0] < s[1]]
    return {"now": reference.NOW, "conversations": CONVERSATIONS, "tools": TOOLS, "cases": out}


def main():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.json")
    with open(path, "w", encoding="utf-8") as out:
        json.dump(golden(), out, ensure_ascii=False, indent=1)
        out.write("\n")


if __name__ == "__main__":
    main()
