"""Grammars in the language of the grammar library, a variant of Lark's: plain text, not compiled here."""

import json
from typing import Any

from app.engine.types import Grammar, ToolFormat, Tools

WHITESPACE = r"\x20|\r?\n[\x20\t]{0,20}"
"""What may stand between two JSON tokens, once: a blank, or a line's end and the next one's indent."""
OPTIONS = '\n%llguidance {"no_forcing": true}\n'
"""The model chooses among all tokens that fit. Where a text can go on in one way only, the library would put
it into tokens by itself, at each step anew: seconds for a long one.
"""
TAGS = ("<tool_call>", "</tool_call>")
"""What a model may have as one token; written as such where it has."""


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


def tool_calls(tools: Tools, style: ToolFormat) -> Grammar:
    """The grammar of an answer that is nothing but calls of these functions, with arguments that match their
    parameters: one in Llama 3.1's form, or in Hermes' (and Qwen's) one or more. What of a function's schema
    cannot be enforced is refused if it is strict, else left out.
    """
    key = "parameters" if style == "llama" else "arguments"
    may_be = [one for one in tools.functions if tools.named in (None, one.name)]
    rules = []
    for index, one in enumerate(may_be):
        schema = one.parameters or {"additionalProperties": False}
        head = json.dumps(f'{{"name": {json.dumps(one.name)}, "{key}": ', ensure_ascii=False)
        rules.append(f'f{index}: {head} {_json({"type": "object"} | schema, not one.strict)} "}}"')
    any_call = " | ".join(f"f{index}" for index in range(len(may_be)))
    if style == "llama":
        start = f"start: {any_call}"
    else:
        more = ' ("\\n" call)*' if tools.parallel else ""
        start = f'start: call{more}\ncall: "<tool_call>" "\\n" ({any_call}) "\\n" "</tool_call>"'
    return Grammar("lark", "\n".join([start, *rules]), "tools")


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
