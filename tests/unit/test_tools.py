"""Tool calls are told apart from the answer, however tokens cut them; what only looks like one is text."""

import json
from typing import Any

import pytest

from app.engine.types import Finish, Token, ToolFormat
from app.services.output import ChoiceOutput, Delta, joined
from app.services.tools import ToolDelta, ToolParser

NAMES = {"weather", "add"}
ARGUMENTS = '{"city": "Köln }{", "days": [1, {"a": "\\""}]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
OTHER = '<tool_call>{"name":"add","arguments":{}}</tool_call>'


def parsed(
    text: str, size: int, form: ToolFormat = "hermes", parallel: bool = True
) -> tuple[str, list[tuple[str, str]], ToolParser]:
    """Text and calls (name, arguments) of an answer that comes in pieces of this size."""
    parser = ToolParser(form, NAMES, parallel)
    content, deltas = "", list[ToolDelta]()
    for part in [*(parser.push(text[at : at + size]) for at in range(0, len(text), size)), parser.finish()]:
        content += part.content
        deltas += part.calls
    calls: list[tuple[str, str]] = []
    for delta in deltas:
        if delta.name is not None:
            assert (delta.id or "").startswith("call_")
            calls.append((delta.name, ""))
        assert delta.index == len(calls) - 1
        calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return content, calls, parser


SIZES = [1, 2, 3, 7, 1000]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (CALL, "", [("weather", ARGUMENTS)]),
        (f"I will look.\n{CALL}", "I will look.", [("weather", ARGUMENTS)]),
        (f"{CALL}\n{OTHER}\n", "", [("weather", ARGUMENTS), ("add", "{}")]),
        (f"{CALL} and so on", "and so on", [("weather", ARGUMENTS)]),
        ('<tool_call>{"name": "add", "arguments": {}, "id": 5}</tool_call>.', ".", [("add", "{}")]),
        ("Write <tool_call> to call a tool.", "Write <tool_call> to call a tool.", []),
        ("<tool_call> {x} </tool_call> is it", "<tool_call> {x} </tool_call> is it", []),
        (f"<tool_call>{OTHER}", "<tool_call>", [("add", "{}")]),
        (f"\n\n{CALL}\n", "", [("weather", ARGUMENTS)]),
        (
            f"\n I look. \n{CALL}\n\n and {OTHER}\n \n",
            "I look.\n\n and",
            [("weather", ARGUMENTS), ("add", "{}")],
        ),
        (f"{CALL[:-13]}\n \n", "", [("weather", ARGUMENTS)]),
        ('<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>', "", [("add", '{"a": 1}')]),
        ('<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("add", '{"a": 1}')]),
        ('<tool_call>\n{"name": "add"}\n</tool_call>', "", [("add", "{}")]),
        ('<tool_call>\n{"name": "add", "arguments": null}', "", [("add", "{}")]),
        (
            '<tool_call>{"type": "function", "function": {"name": "add", "arguments": "{}"}}</tool_call> ok',
            "ok",
            [("add", "{}")],
        ),
        (
            f'<tool_call>{{"arguments": {{"a": "{"x" * 900}"}}, "name": "add"}}</tool_call>{OTHER}',
            "",
            [("add", f'{{"a": "{"x" * 900}"}}'), ("add", "{}")],
        ),
        ('<tool_call>{"arguments": {}, "name": "nothing"}</tool_call>',) * 2 + ([],),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>',) * 2 + ([],),
        ('<tool_call>{"name": ["add"]}</tool_call>',) * 2 + ([],),
        ('<tool_call>{"name": "nothing", "arguments": {}}</tool_call>',) * 2 + ([],),
        ('<tool_call>{"name": "add", "arguments": "x"}</tool_call>',) * 2 + ([],),
        ("<tool", "<tool", []),
        ("a < b <<tool_cal", "a < b <<tool_cal", []),
        ("plain text \n", "plain text \n", []),
        ('{"name": "add", "arguments": {}}',) * 2 + ([],),
        ("", "", []),
    ],
)
def test_calls_in_hermes_format(text: str, content: str, calls: list[tuple[str, str]], size: int) -> None:
    assert parsed(text, size)[:2] == (content, calls)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "add", "parameters": {"a": 1}}', "", [("add", '{"a": 1}')]),
        ('<|python_tag|>{"name": "add", "parameters": {"a": 1}}', "", [("add", '{"a": 1}')]),
        ('{"type": "function", "name": "add", "parameters": {}}', "", [("add", "{}")]),
        (
            '{"name": "add", "parameters": {}}; {"name": "weather", "parameters": {"b": 2}}',
            "",
            [("add", "{}"), ("weather", '{"b": 2}')],
        ),
        ('{"name": "add", "parameters": {}}\n \n', "", [("add", "{}")]),
        ('{"parameters": {"a": 1}, "name": "add"}', "", [("add", '{"a": 1}')]),
        ('<|python_tag|>{"name": "add", "parameters": "{\\"a\\": 1}"}', "", [("add", '{"a": 1}')]),
        ('{"name": "nothing", "parameters": {}}',) * 2 + ([],),
        ('{"a": 1}',) * 2 + ([],),
        ('Say {"name": "add"} to add.',) * 2 + ([],),
        ("A sentence.",) * 2 + ([],),
    ],
)
def test_calls_in_llamas_format(text: str, content: str, calls: list[tuple[str, str]], size: int) -> None:
    assert parsed(text, size, "llama")[:2] == (content, calls)


@pytest.mark.parametrize("cut", range(len(CALL)))
def test_half_a_call_never_reads_as_complete(cut: int) -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES))
    made = joined([output.push(Token(1, CALL[:cut])), output.push(Finish("length"))])
    assert output.reason == "length"
    for delta in made.calls:
        assert delta.name is None or delta.name == "weather"
    arguments = "".join(delta.arguments for delta in made.calls)
    assert ARGUMENTS.startswith(arguments)
    assert arguments != ARGUMENTS
    assert "{" not in made.content
    forced = ChoiceOutput((), tools=ToolParser("hermes", NAMES, only_calls=True))
    made = joined([forced.push(Token(1, CALL[:cut])), forced.push(Finish("length"))])
    assert (forced.reason, made.content) == ("length", "")


def test_arguments_are_streamed_as_they_come() -> None:
    parser = ToolParser("hermes", NAMES)
    assert parser.push('<tool_call>{"name": "add", "arguments": {"a"').calls[1].arguments == '{"a"'
    assert parser.push(": 1").calls == (ToolDelta(0, ": 1"),)
    assert parser.push("}").calls == ()  # as long as the call may still be cut
    assert parser.push("}</tool_call>").calls == (ToolDelta(0, "}"),)
    assert parser.calls == 1


LLAMA_CALL = '{"name": "add", "parameters": {"a": {"b": 1}}, "type": "function"}'
OTHERWISE = '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>'


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("form", "call"),
    [("llama", LLAMA_CALL), ("llama", LLAMA_CALL.replace(', "type": "function"', "")), ("hermes", OTHERWISE)],
)
def test_the_arguments_of_a_call_that_was_cut_are_no_json(form: ToolFormat, call: str, size: int) -> None:
    for cut in range(len(call) + 1):
        parser = ToolParser(form, NAMES)
        parts = [parser.push(call[at : min(at + size, cut)]) for at in range(0, cut, size)]
        deltas = [delta for part in [*parts, parser.finish(cut=True)] for delta in part.calls]
        arguments = "".join(delta.arguments for delta in deltas)
        if cut == len(call):
            assert (json.loads(arguments)["a"], parser.calls) == ({"b": 1} if form == "llama" else 1, 1)
        else:
            assert parser.calls == 0
            with pytest.raises(json.JSONDecodeError):
                json.loads(arguments)


def pushed(output: ChoiceOutput, *texts: str, reason: Any = "stop") -> Delta:
    made = [output.push(Token(1, text)) for text in texts if not output.ended()]
    return joined([*made, *([] if output.ended() else [output.push(Finish(reason))])])


def test_an_answer_with_calls_ends_for_them() -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES))
    assert len([call for call in pushed(output, CALL, OTHER).calls if call.name]) == 2
    assert output.reason == "tool_calls"


def test_a_call_whose_tag_is_missing_at_the_models_own_end_counts() -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES))
    made = pushed(output, CALL.removesuffix("\n</tool_call>"))
    assert (output.reason, made.content) == ("tool_calls", "")


def test_one_call_ends_the_answer_where_only_one_may_be() -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES, parallel=False))
    made = pushed(output, "x", CALL, OTHER)
    assert [call.name for call in made.calls if call.name] == ["weather"]
    assert output.reason == "tool_calls"
    assert output.tokens == 2


def test_text_about_tools_ends_as_text() -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES))
    assert pushed(output, "Use <tool_call> for this.").content == "Use <tool_call> for this."
    assert output.reason == "stop"


def test_stop_strings_are_not_looked_for_in_calls() -> None:
    output = ChoiceOutput(("city",), tools=ToolParser("hermes", NAMES))
    made = pushed(output, "the ", CALL, "city of")
    assert "".join(call.arguments for call in made.calls) == ARGUMENTS
    assert (made.content, output.reason) == ("the", "tool_calls")
    assert json.loads(ARGUMENTS)


def test_a_complete_call_counts_also_where_a_stop_string_comes_after_it() -> None:
    output = ChoiceOutput(("END",), tools=ToolParser("hermes", NAMES))
    made = pushed(output, CALL, " END x")
    assert (output.reason, made.content.strip()) == ("tool_calls", "")


def test_a_call_that_the_model_leaves_half_written_does_not_read_as_complete() -> None:
    output = ChoiceOutput((), tools=ToolParser("hermes", NAMES))
    made = pushed(output, '<tool_call>{"name": "add", "arguments": {"a": ')
    assert "".join(call.arguments for call in made.calls) == '{"a": '
    assert output.reason == "length"


@pytest.mark.parametrize(
    ("form", "whole", "half"),
    [
        ("hermes", OTHER, '\n<tool_call>\n{"name": "add", "arguments": {"a": "Pa'),
        ("llama", '{"name": "add", "parameters": {}}', '; {"name": "add", "parameters": {"a": "Pa'),
    ],
)
def test_half_a_call_after_a_whole_one_does_not_read_as_complete(
    form: ToolFormat, whole: str, half: str
) -> None:
    for reason in ("stop", "length"):
        output = ChoiceOutput((), tools=ToolParser(form, NAMES))
        made = pushed(output, whole + half, reason=reason)
        pieces = [[call.arguments for call in made.calls if call.index == index] for index in (0, 1)]
        assert ["".join(one) for one in pieces] == ["{}", '{"a": "Pa']
        assert output.reason == "length"
