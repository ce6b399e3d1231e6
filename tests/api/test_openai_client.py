"""The official Python client: its async half, its helpers, its errors, and many requests at once."""

import asyncio
import concurrent.futures
import pathlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from tests.conftest import Server, asks, running, scene, wait_until

TALK: Any = asks("Tell me about yourself.")
SEEN: Any = asks("What is in this picture?", scene(colour="red", shape="circle"))
RAMBLE: dict[str, Any] = {"model": "demo", "messages": TALK, "extra_body": {"ignore_eos": True}}
"""An answer that goes on to its limit."""
MEANINGLESS: dict[str, Any] = {
    "user": "me",
    "store": False,
    "metadata": {"a": "b"},
    "service_tier": "auto",
    "verbosity": "low",
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "web_search_options": {},
}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs one answer at a time and queues none."""
    with running(tmp_path_factory.mktemp("narrow"), "--max-concurrent", "1", "--max-queue", "0") as server:
        text(server)  # loads the model
        yield server


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that gives each answer a second."""
    with running(tmp_path_factory.mktemp("hurried"), "--request-timeout", "1", "--preload") as server:
        wait_until(lambda: server.details()["model_state"] == "loaded", 60)
        yield server


def text(server: Server, messages: Any = TALK, **options: Any) -> str:
    answer = server.client.chat.completions.create(model="demo", messages=messages, **options)
    return str(answer.choices[0].message.content)


def is_idle(server: Server) -> bool:
    details = server.details()
    return (details["running"], details["waiting"]) == (0, 0)


def in_async(server: Server, work: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, Any]]) -> Any:
    """What a coroutine makes of an async client."""

    async def run() -> Any:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60
        ) as client:
            return await work(client)

    return asyncio.run(run())


def test_the_async_client_gets_the_same_whole_and_streamed(server: Server) -> None:
    async def work(client: openai.AsyncOpenAI) -> tuple[Any, ...]:
        whole = await client.chat.completions.create(model="demo", messages=SEEN)
        stream = await client.chat.completions.create(model="demo", messages=SEEN, stream=True)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        plain = await client.completions.create(model="demo", prompt="A large red", temperature=0)
        models = [model.id async for model in client.models.list()]
        return whole.choices[0].message.content, "".join(pieces), plain.choices[0].text, models

    whole, streamed, plain, models = in_async(server, work)
    assert whole == streamed == text(server, SEEN)
    assert "red circle" in whole
    answer = server.client.completions.create(model="demo", prompt="A large red", temperature=0)
    assert plain == answer.choices[0].text
    assert models == [model.id for model in server.client.models.list()]


def test_sixteen_different_requests_at_once_get_each_their_own_answer(server: Server) -> None:
    wanted: list[tuple[str, Any]] = [
        (
            f"{colour} {shape}",
            asks("What is in this picture?", scene(colour=colour, shape=shape, size=(224, 224))),
        )
        for colour in ("red", "blue", "green", "yellow")
        for shape in ("circle", "square")
    ]
    wanted += [("demo model", asks(f"{greeting} Who are you?")) for greeting in ("", "Hi.", "Hello.", "Hey.")]
    wanted += [("demo", asks(hello)) for hello in ("Hello!", "Hi", "Hello there", "Hello, demo!")]
    alone = [text(server, messages) for _, messages in wanted]

    async def one(client: openai.AsyncOpenAI, index: int, messages: Any) -> str:
        if index % 2:
            answer = await client.chat.completions.create(model="demo", messages=messages)
            return answer.choices[0].message.content or ""
        stream = await client.chat.completions.create(model="demo", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def work(client: openai.AsyncOpenAI) -> list[str]:
        jobs = [one(client, index, messages) for index, (_, messages) in enumerate(wanted)]
        return await asyncio.gather(*jobs)

    assert len(wanted) == 16
    assert in_async(server, work) == alone
    for (word, _), found in zip(wanted[:8], alone[:8], strict=True):
        assert word in found


def test_a_cancelled_task_stops_its_generation(server: Server) -> None:
    async def work(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**RAMBLE, stream=True, max_tokens=3000)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        task = asyncio.create_task(client.chat.completions.create(**RAMBLE, max_tokens=3000))
        await asyncio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    in_async(server, work)
    wait_until(lambda: is_idle(server))


def test_the_raw_answer_has_the_headers_and_the_object(server: Server) -> None:
    headers = {"x-request-id": "mine-2"}
    raw = server.client.chat.completions.with_raw_response.create(
        model="demo", messages=TALK, max_tokens=3, extra_headers=headers
    )
    assert (raw.status_code, raw.request_id) == (200, "mine-2")
    assert raw.headers["content-type"] == "application/json"
    answer = raw.parse()
    assert answer._request_id == "mine-2"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_raw_stream_can_be_read_by_lines(server: Server) -> None:
    with server.client.chat.completions.with_streaming_response.create(
        model="demo", messages=TALK, max_tokens=3, stream=True
    ) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert raw.headers["x-request-id"]
        lines = list(raw.iter_lines())
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_the_stream_helper_gathers_the_whole_answer(server: Server) -> None:
    options: dict[str, Any] = {"temperature": 1.8, "seed": 1, "n": 2, "logprobs": True, "top_logprobs": 1}
    whole = server.client.chat.completions.create(model="demo", messages=TALK, **options)
    with server.client.chat.completions.stream(
        model="demo", messages=TALK, stream_options={"include_usage": True}, **options
    ) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    kinds = {event.type for event in events}
    assert kinds == {
        "chunk",
        "content.delta",
        "content.done",
        "logprobs.content.delta",
        "logprobs.content.done",
    }
    assert [choice.message.content for choice in final.choices] == [
        choice.message.content for choice in whole.choices
    ]
    for found, wanted in zip(final.choices, whole.choices, strict=True):
        assert found.finish_reason == wanted.finish_reason
        assert found.logprobs is not None
        assert wanted.logprobs is not None
        assert [one.token for one in found.logprobs.content or []] == [
            one.token for one in wanted.logprobs.content or []
        ]
    assert final.usage is not None
    assert whole.usage is not None
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_the_stream_helper_gathers_a_thought(server: Server) -> None:
    whole = server.client.chat.completions.create(model="demo", messages=SEEN, reasoning_effort="low")
    with server.client.chat.completions.stream(model="demo", messages=SEEN, reasoning_effort="low") as stream:
        message: Any = stream.get_final_completion().choices[0].message
    assert message.reasoning_content == whole.choices[0].message.reasoning_content  # type: ignore[attr-defined]  # ours
    assert message.content == whole.choices[0].message.content


class Shape(pydantic.BaseModel):
    colour: Literal["red", "green", "blue"]


def test_the_stream_helper_parses_and_gathers_calls(server: Server) -> None:
    client: Any = server.client
    with client.chat.completions.stream(model="demo", messages=SEEN, response_format=Shape) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Shape)
    tool = openai.pydantic_function_tool(Shape)
    asked = {"messages": SEEN, "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(model="demo", **asked) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert isinstance(call.function.parsed_arguments, Shape)
    (whole,) = client.chat.completions.parse(model="demo", **asked).choices[0].message.tool_calls
    assert whole.function.parsed_arguments == call.function.parsed_arguments


def test_the_stream_helper_says_that_the_limit_cut_the_answer(server: Server) -> None:
    with server.client.chat.completions.stream(model="demo", messages=TALK, max_tokens=3) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        with pytest.raises(openai.LengthFinishReasonError):
            stream.get_final_completion()
    assert "".join(deltas) == text(server, TALK, max_tokens=3)


def test_the_async_stream_helper_gathers_the_whole_answer(server: Server) -> None:
    async def work(client: openai.AsyncOpenAI) -> Any:
        async with client.chat.completions.stream(model="demo", messages=SEEN) as stream:
            return await stream.get_final_completion()

    assert in_async(server, work).choices[0].message.content == text(server, SEEN)


def test_an_answer_goes_into_the_next_request_as_it_is(server: Server) -> None:
    first = server.client.chat.completions.create(model="demo", messages=SEEN, reasoning_effort="low")
    followed: Any = [*SEEN, first.choices[0].message, *asks("Where is it?")]
    assert text(server, followed)


def test_a_model_is_listed_and_found_with_what_is_ours(server: Server) -> None:
    (listed,) = [model for model in server.client.models.list() if model.id == "demo"]
    found: Any = server.client.models.retrieve("demo")
    assert (found.id, found.object, found.created) == (listed.id, "model", listed.created)
    assert found.modalities[:2] == ["text", "image"]
    assert found.context_length == 4096


def test_fields_without_meaning_here_are_taken(server: Server) -> None:
    assert text(server, **MEANINGLESS) == text(server)
    plain = server.client.completions.create(model="demo", prompt="A", temperature=0, user="me")
    assert plain.choices[0].text
    stream = server.client.chat.completions.create(
        model="demo", messages=TALK, stream=True, stream_options={"include_obfuscation": False}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text(server)


@pytest.mark.parametrize("effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"])
def test_every_effort_of_the_client_is_taken(server: Server, effort: Any) -> None:
    answer = server.client.chat.completions.create(model="demo", messages=TALK, reasoning_effort=effort)
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert bool(answer.usage.completion_tokens_details.reasoning_tokens) == (effort != "none")


def test_a_bad_request_names_its_field(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        text(server, temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.code == "invalid_value"
    assert caught.value.type == "invalid_request_error"
    assert "3" in caught.value.message
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError) as caught:
        text(server, max_tokens=10**6)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "context_length_exceeded")


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.chat.completions.create(model="gpt-9", messages=TALK),
        lambda client: client.chat.completions.create(model="gpt-9", messages=TALK, stream=True),
        lambda client: client.completions.create(model="gpt-9", prompt="a"),
        lambda client: client.models.retrieve("gpt-9"),
    ],
    ids=["chat", "chat streamed", "completions", "models"],
)
def test_a_model_that_is_not_there_is_not_found(
    server: Server, ask: Callable[[openai.OpenAI], object]
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(server.client)
    assert caught.value.code == "model_not_found"
    assert "gpt-9" in caught.value.message


def test_what_this_server_does_not_have_is_not_found(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.embeddings.create(model="demo", input="a")
    assert caught.value.code == "not_found"
    with pytest.raises(openai.NotFoundError):
        server.client.responses.create(model="demo", input="a")


def test_a_client_that_has_no_patience_raises_and_its_generation_stops(server: Server) -> None:
    hasty = server.client.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        hasty.chat.completions.create(**RAMBLE, max_tokens=3500)
    wait_until(lambda: is_idle(server))


def test_a_full_server_is_a_rate_limit_and_a_retry_gets_in(narrow: Server) -> None:
    patient = narrow.client.with_options(max_retries=30)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with narrow.client.chat.completions.create(**RAMBLE, max_tokens=3900, stream=True) as stream:
            next(stream)
            with pytest.raises(openai.RateLimitError) as caught:
                text(narrow)
            answer = pool.submit(patient.chat.completions.create, model="demo", messages=TALK)
            wait_until(lambda: narrow.log.count("/v1/chat/completions 429") == 2)
        assert answer.result(100).choices[0].message.content
    assert caught.value.code == "overloaded"
    assert int(caught.value.response.headers["Retry-After"]) > 0


def test_a_request_over_the_servers_time_is_a_408(hurried: Server) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        hurried.client.chat.completions.create(**RAMBLE, max_tokens=3900)
    assert (caught.value.status_code, caught.value.code) == (408, "request_timeout")
    wait_until(lambda: is_idle(hurried))
    with (
        pytest.raises(openai.APIError) as broken,
        hurried.client.chat.completions.create(**RAMBLE, max_tokens=3900, stream=True) as stream,
    ):
        for _ in stream:
            pass
    assert broken.value.code == "request_timeout"


def test_a_server_that_is_not_there_is_a_connection_error(server: Server, tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as gone:
        url = f"{gone.url}/v1"
    with pytest.raises(openai.APIConnectionError):
        server.client.with_options(base_url=url, timeout=5).models.list()
