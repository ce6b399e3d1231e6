"""Grammars in the language of the grammar library, a variant of Lark's: plain text, not compiled here."""

import json
from collections.abc import Iterator
from typing import Any

from app.engine.types import Function, GenerationRequest, Grammar, ToolFormat, Tools

WHITESPACE = r"\x20|\r?\n[\x20\t]{0,20}"
"""What may stand between two JSON tokens, once: a blank, or a line's end and the next one's indent."""
OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""The model chooses among all tokens that fit. Where a text can go on in one way only, the library would put
it into tokens by itself, at each step anew: seconds for a long one.
"""
TAGS = ("<tool_call>", "</tool_call>", "<|python_tag|>")
"""What a model may have as one token; written as such where it has."""
BLANKS = r"[ \t\r\n]"
HERMES_ANSWER = rf"""
start: TEXT? (tag after)? | LEAD call%(more)s
after: BLANKS? call%(more)s | MENTION? (tag after)? | MENTION_LEAD call%(more)s
call: (%(any)s) SPACE? "</tool_call>"
tag: "<tool_call>"
TEXT: /(?s:.+)/ & ~/(?s:.*)<tool_call>{BLANKS}*\{{(?s:.*)/
LEAD: TEXT & /(?s:.*)<tool_call>{BLANKS}*/
MENTION: TEXT & /{BLANKS}*([^ \t\r\n{{](?s:.*))?/
MENTION_LEAD: MENTION & LEAD
BLANKS: /{BLANKS}+/
"""
"""Text with calls in it. In a text, "<tool_call>" and "{{" begin a call and nothing else; that tag may be a
token of its own (`tag`), or be spelled (at the end of a LEAD).
"""
LLAMA_ANSWER = rf"""
start: "<|python_tag|>"? (TEXT | call%(more)s)?
call: %(any)s
TEXT: /(?s:.+)/ & ~CALL
CALL: /{BLANKS}*(<\|python_tag\|>)?{BLANKS}*\{{{BLANKS}*"(name|type|parameters|arguments)"(?s:.*)/
"""
"""Calls, or a text that does not begin like one."""


def question(grammar: Grammar) -> dict[str, str]:
    """A grammar as the checking process is asked about it."""
    kind, source = grammar.kind, grammar.source
    if kind == "json":
        kind, source = "lark", f"start: {_json(json.loads(source), grammar.lenient)}"
    elif kind == "choice":
        choices = (json.dumps(one, ensure_ascii=False) for one in json.loads(source))
        kind, source = "lark", "start: " + " | ".join(choices)
    elif kind == "lark" and "::=" in source:
        return {"kind": "gbnf", "source": source, "options": OPTIONS}
    return {"kind": kind, "source": source, "options": OPTIONS}


def of(request: GenerationRequest, style: ToolFormat | None) -> Grammar | None:
    """What an answer is held to, if to anything: what was asked for, or calls, written in this style."""
    tools, asked = request.tools, request.grammar
    if tools is None or style is None:
        return asked
    if tools.choice == "required":
        return tool_calls(tools, style)  # a format is one of a content, of which there is none
    if asked is not None:
        return json_or_calls(asked, tools, style) if asked.kind == "json" else asked
    return strict_calls(tools, style) if may_call(tools) else None


def may_call(tools: Tools | None) -> bool:
    """Whether an answer is free but for the arguments of its calls, if it makes any."""
    return tools is not None and tools.choice == "auto" and any(one.strict for one in tools.functions)


def tool_calls(tools: Tools, style: ToolFormat) -> Grammar:
    """The grammar of an answer that is nothing but calls of these functions, with arguments that match their
    parameters: one in Llama 3.1's form, or in Hermes' (and Qwen's) one or more. What of a function's schema
    cannot be enforced is refused if it is strict, else left out.
    """
    key = "parameters" if style == "llama" else "arguments"
    may_be = [one for one in tools.functions if tools.named in (None, one.name)]
    rules = []
    for index, one in enumerate(may_be):
        head = json.dumps(f'{{"name": {json.dumps(one.name)}, "{key}": ', ensure_ascii=False)
        rules.append(f'f{index}: {head} {_json(_schema(one), not one.strict)} "}}"')
    any_call = _any(len(may_be))
    if style == "llama":
        start = f"start: {any_call}"
    else:
        more = ' ("\\n" call)*' if tools.parallel else ""
        start = f'start: call{more}\ncall: "<tool_call>" "\\n" ({any_call}) "\\n" "</tool_call>"'
    return Grammar("lark", "\n".join([start, *rules]), "tools")


def strict_calls(tools: Tools, style: ToolFormat) -> Grammar:
    """The grammar of an answer that may have calls in it: those of strict functions have arguments that match
    their parameters, those of others an object.
    """
    llama = style == "llama"
    key = "parameters" if llama else "arguments"
    start = f"{BLANKS}*" if llama else ""
    blank = f"{BLANKS}{{0,4}}"
    rules = [f"SPACE: /{BLANKS}{{1,4}}/"]
    for index, one in enumerate(tools.functions):
        head = blank.join([rf"{start}\{{", '"name"', ":", f'"{one.name}"', ",", f'"{key}"', f":{blank}"])
        rules.append(f'f{index}: /{head}/ {_arguments(one)} SPACE? "}}"')
    answer, more = (LLAMA_ANSWER, ' (SPACE? ";" call)*') if llama else (HERMES_ANSWER, " start")
    answer %= {"any": _any(len(tools.functions)), "more": more if tools.parallel else ""}
    return Grammar("lark", answer + "\n".join(rules), "tools")


def json_or_calls(asked: Grammar, tools: Tools, style: ToolFormat) -> Grammar:
    """The grammar of an answer that is JSON, as asked for, or nothing but calls as in `strict_calls`. A call
    is of single words, as JSON is: in Llama's form both may begin alike, and the words tell them apart.
    """
    any_call = f"({_any(len(tools.functions))})"
    tag, call, between = "", f'"<tool_call>" SPACE? {any_call} SPACE? "</tool_call>"', "SPACE?"
    key = "arguments"
    if style == "llama":
        tag, call, between = '"<|python_tag|>"?', any_call, 'SPACE? ";" SPACE?'
        key = "parameters"
    more = f"({between} call)*" if tools.parallel else ""
    rules = [
        f"start: answer | {tag} call {more}",
        f"answer: {_json(json.loads(asked.source), asked.lenient)}",
        f"call: {call}",
        f"SPACE: /{WHITESPACE}/",
    ]
    for index, one in enumerate(tools.functions):
        words = ["{", '"name"', ":", json.dumps(one.name), ",", f'"{key}"', ":"]
        head = " SPACE? ".join(map(json.dumps, words))
        rules.append(f'f{index}: {head} SPACE? {_arguments(one)} SPACE? "}}"')
    return Grammar("lark", "\n".join(rules), asked.param)


def parameters(tools: Tools | None, asked: Grammar | None = None) -> Iterator[Grammar]:
    """The schemas that one of the above holds answers to, one by one, to tell which of them cannot be."""
    if tools is None:
        return
    if asked is not None and tools.choice == "auto":
        yield asked
    for index, one in enumerate(tools.functions):
        if one.strict or (tools.choice == "required" and tools.named in (None, one.name)):
            place = f"tools[{index}].function.parameters"
            yield Grammar("json", json.dumps(_schema(one)), place, lenient=not one.strict)


def _any(count: int) -> str:
    return " | ".join(f"f{index}" for index in range(count))


def _arguments(function: Function) -> str:
    """A rule for the arguments of a call that need not be made."""
    return _json(_schema(function) if function.strict else {"type": "object"}, lenient=False)


def _schema(function: Function) -> dict[str, Any]:
    """What a function's arguments are; without parameters, none."""
    return {"type": "object"} | (function.parameters or {"additionalProperties": False})


def _json(schema: dict[str, Any], lenient: bool) -> str:
    """A rule for JSON that is valid by a schema. `lenient` leaves out what the library cannot enforce."""
    options = {
        "whitespace_pattern": WHITESPACE,
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": lenient,
        "lenient": lenient,
    }
    text = json.dumps(schema | {"x-guidance": options}, ensure_ascii=False)
    return "%json " + text.replace("<", "\\u003c")  # so that no text of a client's looks like a tag
