"""LangChain's ChatOpenAI, as it comes."""

import asyncio
import functools
import operator
from collections.abc import Iterator
from typing import Any, Literal

import langchain_core.messages as said
import openai
import pydantic
import pytest
from langchain_openai import ChatOpenAI

from tests.conftest import Server, asks, data_url, scene

TALK = "Tell me about yourself."
SEEN = said.HumanMessage(asks("What is in this picture?", scene(colour="red", shape="circle"))[0]["content"])


def chat(server: Server, **options: Any) -> ChatOpenAI:
    given: dict[str, Any] = {"model": "demo", "max_retries": 0, "timeout": 60} | options
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", **given)  # type: ignore[arg-type]  # a secret


@pytest.fixture(scope="module")
def model(server: Server) -> Iterator[ChatOpenAI]:
    """The model of most tests; all that have the same address share a connection."""
    made = chat(server)
    yield made
    made.root_client.close()


def test_invoke_answers_with_reason_and_usage(server: Server, model: ChatOpenAI) -> None:
    answer = model.invoke(TALK)
    assert "demo model" in str(answer.content)
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.response_metadata["model_name"] == "demo"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == sum(
        answer.usage_metadata[name] for name in ("input_tokens", "output_tokens")
    )


def test_a_stream_adds_up_to_the_whole_answer(server: Server, model: ChatOpenAI) -> None:
    chunks: list[Any] = list(model.stream([SEEN], stream_usage=True))
    whole = model.invoke([SEEN])
    added: Any = functools.reduce(operator.add, chunks)
    assert len(chunks) > 4
    assert added.content == whole.content
    assert "red circle" in str(whole.content)
    assert added.response_metadata["finish_reason"] == "stop"
    assert added.usage_metadata is not None
    assert whole.usage_metadata is not None
    assert added.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]


def test_a_picture_in_langchains_own_form(server: Server, model: ChatOpenAI) -> None:
    data = data_url(scene(colour="red", shape="circle")).partition(",")[2]
    picture = {"type": "image", "base64": data, "mime_type": "image/png"}
    own = said.HumanMessage([{"type": "text", "text": "What is in this picture?"}, picture])
    assert "red circle" in str(model.invoke([own]).content)


def test_a_batch_keeps_its_order(server: Server, model: ChatOpenAI) -> None:
    asked: list[Any] = [TALK, "Hello!", TALK, "What is a circle?"]
    alone = [model.invoke(one).content for one in asked]
    assert [one.content for one in model.batch(asked)] == alone
    assert alone[0] == alone[2] != alone[1]


def test_the_async_methods_give_the_same(server: Server, model: ChatOpenAI) -> None:
    async def work() -> tuple[Any, ...]:
        async with openai.DefaultAsyncHttpxClient(timeout=60) as connection:
            own = chat(server, http_async_client=connection)
            whole = await own.ainvoke([SEEN])
            streamed = [chunk.content async for chunk in own.astream([SEEN])]
            several = await own.abatch([TALK, "Hello!"])
        return whole.content, "".join(map(str, streamed)), [one.content for one in several]

    whole, streamed, several = asyncio.run(work())
    assert whole == streamed == model.invoke([SEEN]).content
    assert several == [model.invoke(one).content for one in (TALK, "Hello!")]


def test_a_conversation_of_all_roles(server: Server, model: ChatOpenAI) -> None:
    talk = [said.SystemMessage("Be brief."), SEEN]
    answer = model.invoke(talk)
    assert model.invoke([*talk, answer, said.HumanMessage("Where is it?")]).content


class Shape(pydantic.BaseModel, extra="forbid"):
    """What is in the picture."""

    colour: Literal["red", "green", "blue"]
    shape: Literal["circle", "square", "triangle"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_an_object_of_the_class(
    server: Server, model: ChatOpenAI, method: Literal["json_schema", "function_calling"]
) -> None:
    assert isinstance(model.with_structured_output(Shape, method=method).invoke([SEEN]), Shape)


@pytest.mark.parametrize("choice", ["any", "Shape"])
def test_a_tool_is_called_whole_and_streamed_and_its_answer_is_taken(
    server: Server, model: ChatOpenAI, choice: str
) -> None:
    bound = model.bind_tools([Shape], tool_choice=choice, parallel_tool_calls=False)
    answer = bound.invoke([SEEN])
    (call,) = answer.tool_calls
    assert call["name"] == "Shape"
    assert Shape(**call["args"])
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    chunks: Any = list(bound.stream([SEEN]))
    (streamed,) = functools.reduce(operator.add, chunks).tool_calls
    assert streamed["args"] == call["args"]
    talk = [SEEN, answer, said.ToolMessage("It is so.", tool_call_id=call["id"])]
    assert model.bind_tools([Shape]).invoke(talk, max_tokens=30)


def test_its_parameters_arrive(server: Server) -> None:
    own = chat(
        server, temperature=1.8, seed=3, n=2, top_p=0.9, presence_penalty=0.5, logprobs=True, top_logprobs=1,
        max_completion_tokens=6, extra_body={"top_k": 50},
    )  # fmt: skip
    (texts,) = own.generate([[said.HumanMessage(TALK)]]).generations
    assert len(texts) == 2
    answer: Any = texts[0]
    assert answer.message.response_metadata["finish_reason"] == "length"
    assert len(answer.message.response_metadata["logprobs"]["content"]) == 6
    thinking = chat(server, reasoning_effort="low").invoke([SEEN])
    assert thinking.usage_metadata is not None
    assert thinking.usage_metadata["output_token_details"]["reasoning"] > 0
    whole = str(chat(server).invoke(TALK).content)
    assert chat(server).invoke(TALK, stop=[whole[5:9]]).content == whole[:5]


def test_errors_are_the_clients(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(server, temperature=1).invoke(TALK, max_tokens=10**6)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as missing:
        chat(server, model="gpt-9").invoke(TALK)
    assert missing.value.code == "model_not_found"
