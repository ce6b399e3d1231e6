"""The TPU engine over HTTP, on the stand-in: it answers as transformers does, and outlives its device."""

import pathlib
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from app.engine import loader
from app.engine.types import ModelSpec
from models.demo import evaluate
from models.demo.dialogues import Dialogue, as_messages
from models.demo.draw import draw_clip, draw_scene
from models.demo.palette import LANGUAGES
from tests import standin
from tests.conftest import Server, asks, data_url, running, scene, wait_until
from tests.standin import Control

CACHE = 2 * 4 * 512 * 2 * 64 * 4
"""Bytes of a KV cache: keys and values, layers, rows, heads, their size, of a number."""
LIVE = ("live_bytes", "live_blocks", "live_handles", "live_runtimes")


@dataclass(frozen=True)
class Tpu:
    """A server whose TPU is the stand-in, and that stand-in's control page."""

    server: Server
    control: Control

    @property
    def client(self) -> Any:
        return self.server.client

    def says(self, *words: Any, **options: Any) -> str:
        messages = asks(*words) if isinstance(words[0], str) else words[0]
        made = self.client.chat.completions.create(
            model=options.pop("model", "tpu-demo"), messages=messages, **options
        )
        return str(made.choices[0].message.content)


def without_caches(folder: pathlib.Path) -> int:
    """Bytes of device memory that a compiled model takes but for KV caches of streams."""
    assert standin.control()
    engine = loader.load(
        ModelSpec("tpu", str(folder), engine="bmrt"), lambda what, share: None, max_concurrent=1,
        tpu_libraries=str(standin.libraries()),
    )  # fmt: skip
    found = standin.control()["live_bytes"]
    engine.close()
    return found


@pytest.fixture(scope="module")
def tpu(compiled: Callable[..., pathlib.Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpu]:
    folder = tmp_path_factory.mktemp("tpu")
    control = Control(folder / "control")
    catalog = folder / "catalog.yaml"
    catalog.write_text(
        "models:\n"
        f"  - {{id: tpu-demo, source: {compiled()}, engine: bmrt, modalities: [text, image, video],"
        " defaults: {temperature: 0.0}}\n"
        f"  - {{id: tpu-lost, source: {folder}, engine: bmrt}}\n"
    )
    control["limit_bytes"] = without_caches(compiled()) + 5 * CACHE // 2
    flags = ("--catalog", str(catalog), "--model", "tpu-demo", "--tpu-libraries", str(standin.libraries()))
    with running(folder, *flags, env={"VLSTANDIN_CONTROL": str(control.path)}) as server:
        yield Tpu(server, control)
    assert [control[name] for name in LIVE] == [0] * len(LIVE)
    assert control["host_refused"] == 0
    assert max(control["most_callers"], control["threads"]) <= 1


@pytest.fixture(autouse=True)
def healed(tpu: Tpu) -> Iterator[None]:
    yield
    tpu.control.heal()
    tpu.control["launch_micros"] = 0


def messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """A dialogue up to its last question, with its pictures, or its clip as a list of frames."""
    pictures = iter([data_url(draw_scene(one)) for one in dialogue.pictures])

    def filled(part: dict[str, Any]) -> dict[str, Any]:
        if part["type"] == "image":
            return {"type": "image_url", "image_url": {"url": next(pictures)}}
        if part["type"] == "video" and dialogue.clip is not None:
            return {"type": "video", "video": [data_url(frame) for frame in draw_clip(dialogue.clip)]}
        return part

    found: list[dict[str, Any]] = as_messages(dialogue, until=len(dialogue.turns) - 1)
    for message in found:
        if isinstance(message["content"], list):
            message["content"] = [filled(part) for part in message["content"]]
    return found


def whole(client: Any, model: str, case: evaluate.Case) -> tuple[str, str | None, str, int]:
    made = client.chat.completions.create(
        model=model, messages=messages(case.dialogue), temperature=0,
        extra_body={"enable_thinking": case.dialogue.thinking},
    )  # fmt: skip
    choice = made.choices[0]
    thought = getattr(choice.message, "reasoning_content", None)
    assert made.usage is not None
    return str(choice.message.content), thought, choice.finish_reason, made.usage.total_tokens


def streamed(client: Any, model: str, case: evaluate.Case) -> str:
    chunks = client.chat.completions.create(
        model=model, messages=messages(case.dialogue), temperature=0, stream=True,
        extra_body={"enable_thinking": case.dialogue.thinking},
    )  # fmt: skip
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.timeout(900)
def test_held_out_scenes_are_answered_as_by_the_transformers_engine(
    tpu: Tpu, server: Server, language: Any, pytestconfig: pytest.Config
) -> None:
    def answers(case: evaluate.Case) -> tuple[Any, Any, Any]:
        ours = whole(tpu.client, "tpu-demo", case), streamed(tpu.client, "tpu-demo", case)
        return whole(server.client, "demo", case), *ours

    count = pytestconfig.getoption("scenes")
    cases = [case for skill in evaluate.SKILLS for case in evaluate.cases(skill, language, count)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(answers, cases))
    assert len(found) >= len(evaluate.SKILLS) * count
    assert [ours for _, ours, _ in found] == [wanted for wanted, *_ in found]
    assert [text for *_, text in found] == [wanted[0] for wanted, *_ in found]


def test_ten_streams_on_two_caches_are_all_right(tpu: Tpu) -> None:
    tpu.says("Hello!")
    assert re.search(r"device  tpu:0, in the form it was compiled in$", tpu.server.log, re.MULTILINE)
    assert "4 layers in float32, static, no history: prompts of 256 tokens, 512 with" in tpu.server.log
    assert "tpu:0, a chip BM1684X, runs 2 of 10 streams at once" in tpu.server.log
    colours = ["red", "blue", "green", "yellow", "black"]
    questions = [
        asks("What is in this picture?", scene(colour=colour, shape=shape))
        for colour in colours
        for shape in ("circle", "square")
    ]
    wanted = [tpu.says(question) for question in questions]
    found: dict[int, str] = {}

    def stream(number: int) -> None:
        chunks = tpu.client.chat.completions.create(
            model="tpu-demo",
            messages=questions[number],
            stream=True,
        )
        found[number] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found.get(number) for number in range(10)] == wanted


def test_a_client_that_leaves_frees_its_cache(tpu: Tpu) -> None:
    tpu.control["launch_micros"] = 15_000
    endless: Any = {"max_tokens": 400, "stream": True, "extra_body": {"ignore_eos": True}}
    streams = [
        tpu.client.chat.completions.create(model="tpu-demo", messages=asks("Hello!"), **endless)
        for _ in range(2)
    ]
    for stream in streams:
        next(iter(stream))
    wait_until(lambda: tpu.server.details()["running"] == 2)
    launches = tpu.control["launches"]
    for stream in streams:
        stream.close()
    tpu.says("Hi", max_tokens=2)
    wait_until(lambda: tpu.server.details()["running"] == 0)
    a_token = 1 + 4 + 1
    assert tpu.control["launches"] - launches < 30 * a_token  # of the 800 tokens that were asked for


FAULTS = ["bmrt_launch_tensor_ex", "bm_thread_sync", "bm_memcpy_s2d_partial_offset",
          "bm_memcpy_d2s_partial_offset", "bm_memcpy_d2d_byte"]  # fmt: skip


@pytest.mark.parametrize("function", FAULTS)
def test_a_device_that_fails_is_a_503_and_the_next_request_works(tpu: Tpu, function: str) -> None:
    wanted = tpu.says("Hello!")
    tpu.control.fail("bm_dev_request", code=1, sticky=True)
    tpu.control.fail(function, code=3)
    with pytest.raises(openai.InternalServerError) as told:
        tpu.says("What can you do?")
    assert (told.value.status_code, told.value.code) == (503, "device_failed")
    assert function in str(told.value)
    ready = tpu.server.get("/health/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "unhealthy")
    assert "failed" in tpu.server.get("/health").json()["details"]["reason"]
    wait_until(lambda: [tpu.control[name] for name in LIVE] == [0] * len(LIVE))  # the client is told first
    tpu.control.heal()
    assert tpu.says("Hello!") == wanted
    assert tpu.server.get("/health/ready").status_code == 200


def test_a_device_that_fails_in_a_stream_is_an_event_of_it(tpu: Tpu) -> None:
    tpu.control["launch_micros"] = 2000
    options: Any = {"stream": True, "max_tokens": 200, "extra_body": {"ignore_eos": True}}
    stream = tpu.client.chat.completions.create(model="tpu-demo", messages=asks("Hello!"), **options)
    for _, chunk in zip(range(6), stream, strict=False):
        assert chunk.choices[0].finish_reason is None
    tpu.control.fail("bmrt_launch_tensor_ex")
    with pytest.raises(openai.APIError, match="The TPU failed"):
        list(stream)
    tpu.control["launch_micros"] = 0
    assert tpu.says("Hello!")


LOADS = ["bm_dev_getcount", "bm_dev_request", "bm_get_chipid", "bm_malloc_device_byte", "bmrt_create",
         "bmrt_load_bmodel", "bmrt_get_network_info", "bm_memset_device_ext", "bm_get_stat"]  # fmt: skip


@pytest.mark.parametrize("function", LOADS)
def test_a_device_that_cannot_be_opened_again_is_a_503_until_it_can(tpu: Tpu, function: str) -> None:
    tpu.says("Hello!")
    tpu.control.fail(function, code=5, sticky=True)
    tpu.control.fail("bm_thread_sync", code=3)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as told:
            tpu.says("Hello!")
        assert told.value.code == "device_failed"
    wait_until(lambda: [tpu.control[name] for name in LIVE] == [0] * len(LIVE))
    tpu.control.heal()
    assert tpu.says("Hello!")


def test_prompts_and_answers_have_their_limits(tpu: Tpu) -> None:
    with pytest.raises(openai.BadRequestError, match=r"takes prompts of 256 tokens; the prompt has \d+"):
        tpu.says("red circle " * 200)
    with pytest.raises(openai.BadRequestError, match="context is 512 tokens"):
        tpu.says("Hello!", max_tokens=512)
    asked: Any = {"model": "tpu-demo", "messages": asks("Hello!"), "extra_body": {"ignore_eos": True}}
    prompt = tpu.client.chat.completions.create(**asked, max_tokens=1).usage
    assert prompt is not None
    made = tpu.client.chat.completions.create(**asked, max_tokens=512 - prompt.prompt_tokens)
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert made.usage.total_tokens == 512


def test_a_model_that_is_not_complete_is_a_503_with_the_reason(tpu: Tpu) -> None:
    with pytest.raises(openai.InternalServerError, match=r"has 0 files \*\.bmodel"):
        tpu.says("Hello!", model="tpu-lost")


def test_a_text_with_a_pictures_token_and_no_picture_is_refused(tpu: Tpu) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        tpu.client.completions.create(model="tpu-demo", prompt="a <|image_pad|> b", max_tokens=2)
    assert caught.value.param == "prompt"
    assert tpu.client.completions.create(model="tpu-demo", prompt="a red", max_tokens=2).choices


def test_what_needs_logits_is_refused_where_there_are_none(
    compiled: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    control = Control(tmp_path / "control")
    flags = (
        "--model",
        str(compiled(head="greedy")),
        "--tpu-libraries",
        str(standin.libraries()),
        "-d",
        "tpu:0",
    )
    with running(tmp_path, *flags, env={"VLSTANDIN_CONTROL": str(control.path)}) as server:
        one: Any = {"model": server.get("/v1/models").json()["data"][0]["id"], "messages": asks("Hello!")}
        default = server.get("/health").json()["model"]
        one["model"] = default
        assert server.get("/health").json()["max_concurrent"] == 10
        assert "vlserve" in str(server.client.chat.completions.create(**one).choices[0].message.content)
        with pytest.raises(openai.BadRequestError) as told:
            server.client.chat.completions.create(**one, temperature=0.7)
        assert (told.value.param, told.value.code) == ("temperature", "unsupported_by_model")
        said = server.post("/chat", {"message": "Hello!"})
        assert (said.status_code, said.json()["status"]) == (200, "success")
        refused = server.post("/chat", {"message": "Hello!", "temperature": 0.7})
        assert (refused.status_code, "temperature cannot be had" in refused.text) == (400, True)
    assert control["live_bytes"] == 0
