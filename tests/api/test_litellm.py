"""LiteLLM as a client: `openai/…` models with an address of their own."""

import asyncio
import gc
import json
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Server, asks, scene

TALK = asks("Tell me about yourself.")
SEEN = asks("What is in this picture?", scene(colour="red", shape="circle"))

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of pydantic, about LiteLLM's own code
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # it never closes its event loop
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _what_it_left_open() -> Iterator[None]:
    yield
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """The package; it fetches prices from the network when it is imported, unless it is told not to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        patch.setattr(litellm, "suppress_debug_info", True)
        yield litellm


def at(server: Server, **options: Any) -> dict[str, Any]:
    address = {"api_base": f"{server.url}/v1", "api_key": "none"}
    return {"model": "openai/demo", "messages": TALK, "num_retries": 0, "timeout": 60} | address | options


def test_a_whole_answer(server: Server, litellm: Any) -> None:
    answer = litellm.completion(**at(server, messages=SEEN))
    assert "red circle" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.image_tokens > 0


def test_a_stream_adds_up_to_the_whole_answer(server: Server, litellm: Any) -> None:
    whole = litellm.completion(**at(server))
    chunks = list(litellm.completion(**at(server, stream=True, stream_options={"include_usage": True})))
    built = litellm.stream_chunk_builder(chunks, messages=TALK)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.choices[0].finish_reason == "stop"
    assert built.usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 4


def test_the_async_functions_give_the_same(server: Server, litellm: Any) -> None:
    async def work() -> tuple[str, str]:
        whole = await litellm.acompletion(**at(server))
        stream = await litellm.acompletion(**at(server, stream=True))
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(work())
    assert whole == streamed == litellm.completion(**at(server)).choices[0].message.content


def test_a_thought_comes_apart(server: Server, litellm: Any) -> None:
    answer = litellm.completion(**at(server, messages=SEEN, extra_body={"enable_thinking": True}))
    assert answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0
    chunks = list(
        litellm.completion(**at(server, messages=SEEN, extra_body={"enable_thinking": True}, stream=True))
    )
    thought = "".join(getattr(chunk.choices[0].delta, "reasoning_content", None) or "" for chunk in chunks)
    assert thought == answer.choices[0].message.reasoning_content


def test_its_parameters_arrive(server: Server, litellm: Any) -> None:
    options = {"n": 2, "temperature": 1.8, "seed": 3, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}
    answer = litellm.completion(**at(server, **options))
    assert len(answer.choices) == 2
    assert answer.choices[0].finish_reason == "length"
    assert [len(one.top_logprobs) for one in answer.choices[0].logprobs.content] == [2] * 6


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def test_structured_output_and_tools(server: Server, litellm: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "seen", "schema": SCHEMA, "strict": True}}
    answer = litellm.completion(**at(server, messages=SEEN, response_format=form))
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "green", "blue")
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    asked = at(server, messages=SEEN, tools=[tool], tool_choice="required", parallel_tool_calls=False)
    answer = litellm.completion(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert (answer.choices[0].finish_reason, call.function.name) == ("tool_calls", "look")
    built = litellm.stream_chunk_builder(list(litellm.completion(**asked, stream=True)), messages=SEEN)
    assert built.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    assert json.loads(call.function.arguments)["colour"] in ("red", "green", "blue")


def test_a_text_completion(server: Server, litellm: Any) -> None:
    wanted = server.client.completions.create(model="demo", prompt="A large red", temperature=0, max_tokens=6)
    asked = at(server, model="text-completion-openai/demo", temperature=0, max_tokens=6, prompt="A large red")
    del asked["messages"]
    assert litellm.text_completion(**asked).choices[0].text == wanted.choices[0].text


@pytest.mark.parametrize(
    ("given", "error", "status"),
    [
        ({"temperature": 3}, "BadRequestError", 400),
        ({"max_tokens": 10**6}, "BadRequestError", 400),
        ({"model": "openai/gpt-9"}, "NotFoundError", 404),
        ({"timeout": 0.2, "max_tokens": 3000, "extra_body": {"ignore_eos": True}}, "Timeout", 408),
    ],
)
def test_errors_become_its_own(
    server: Server, litellm: Any, given: dict[str, Any], error: str, status: int
) -> None:
    with pytest.raises(getattr(litellm.exceptions, error)) as caught:
        litellm.completion(**at(server, **given))
    assert caught.value.status_code == status
