"""The batch loop against generate() alone, token for token, for every family: 200 requests in random
company (lengths, pictures, arrivals, cancellations), with prompts in small chunks and a small cache.
"""

import pathlib
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from tests import tiny_models  # prepares torchvision

# isort: split
import torch

from app.engine import batch, loader
from app.engine.media_types import ImagePart
from app.engine.types import GenerationRequest, Message, ModelSpec, Sampling, TextPart, Token
from tests.conftest import scene
from tests.unit.conftest import remote_code_in

REQUESTS = 225  # of which 200 run to their end
AT_ONCE = 12
CANCELLED = 9  # every so manieth one leaves after two tokens
ROOM = 600  # tokens of the cache: two or three requests


@dataclass(frozen=True)
class Case:
    """A question, its picture, and how many tokens are wanted."""

    text: str
    picture: Image.Image | None
    tokens: int

    def request(self, sampling: Sampling) -> GenerationRequest:
        picture = [] if self.picture is None else [ImagePart("", "image", self.picture)]
        return GenerationRequest((Message("user", (*picture, TextPart(self.text))),), sampling, self.tokens)

    def messages(self) -> list[dict[str, Any]]:
        picture = [] if self.picture is None else [{"type": "image", "image": self.picture}]
        return [{"role": "user", "content": [*picture, {"type": "text", "text": self.text}]}]


def cases(family: str, count: int) -> list[Case]:
    """Questions that repeat each other's beginnings, some with one of a few pictures."""
    rng = random.Random(family)
    sees = family in tiny_models.VISION_FAMILIES
    pictures = [
        scene(colour=colour, size=size)
        for colour in ("red", "blue")
        for size in ((56, 56), (112, 84), (224, 112))
    ]
    start = "Look at this and tell me what it is, in one word: "
    return [
        Case(
            start * rng.randint(0, 2) + "x " * rng.randint(0, 40) + rng.choice(("red", "blue", "什么", "😀")),
            rng.choice(pictures) if sees and rng.random() < 0.5 else None,
            rng.randint(1, 24),
        )
        for _ in range(count)
    ]


class SmallLoop(batch.BatchLoop):
    """A batch loop with a small cache, which counts how often a sequence had to wait for room."""

    def __init__(self, decoder: Any, *, tokens: int, max_rows: int, name: str = "") -> None:
        super().__init__(decoder, tokens=min(tokens, ROOM), max_rows=max_rows, name=name)
        self.refused = 0
        reserve = self._cache.reserve

        def counted(keys: torch.Tensor, tokens: int) -> Any:
            place = reserve(keys, tokens)
            self.refused += place is None
            return place

        self._cache.reserve = counted  # type: ignore[method-assign]


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(
    family: str, tiny: Callable[[str], pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, remote_code_in(tmp_path_factory.mktemp("code")):
        patch.setattr(batch, "CHUNK", 37)
        patch.setattr(batch, "SHARED_CHUNK", 23)
        patch.setattr(batch, "SEEING", 0.0)
        patch.setattr(batch, "BatchLoop", SmallLoop)
        spec = ModelSpec(
            family,
            str(tiny(family)),
            dtype="float32",
            modalities=("text", "image") if family in tiny_models.VISION_FAMILIES else ("text",),
            trust_remote_code=family == "sail_vl2",
        )
        loaded = loader.load(spec, lambda what, share: None, max_concurrent=6)
        yield loaded
        loaded.close()


def tokens(stream: Any) -> list[int]:
    return [event.id for event in stream if isinstance(event, Token)]


def together(engine: Any, todo: list[Case], samplings: list[Sampling]) -> list[list[int] | None]:
    """The answers of requests that run AT_ONCE at a time; None for those that were cancelled."""
    results: list[Any] = [AssertionError("no answer")] * len(todo)
    free = threading.Semaphore(AT_ONCE)

    def ask(index: int) -> None:
        with free:
            try:
                stream = engine.submit(todo[index].request(samplings[index]))
                if index % CANCELLED:
                    results[index] = tokens(stream)
                    return
                seen = 0
                for event in stream:
                    seen += isinstance(event, Token)
                    if seen == 2:
                        stream.cancel()
                results[index] = None
            except Exception as error:
                results[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(todo))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_greedy_text_in_random_company_is_that_of_generate_alone(
    family: str, engine: Any, tiny: Callable[[str], pathlib.Path]
) -> None:
    assert engine.is_batched()
    todo = cases(family, REQUESTS)
    plain = tiny_models.load(tiny(family))
    with torch.inference_mode():
        wanted = [tiny_models.greedy(plain, case.messages(), case.tokens)[1] for case in todo]
    # Some families' generation_config.json has one, which generate() obeys.
    penalty = engine.defaults.repetition_penalty or 1.0
    found = together(engine, todo, [Sampling(temperature=0.0, repetition_penalty=penalty)] * REQUESTS)
    compared = [index for index in range(REQUESTS) if found[index] is not None]
    assert len(compared) == REQUESTS - len(range(0, REQUESTS, CANCELLED))
    assert [found[index] for index in compared] == [wanted[index] for index in compared]
    assert engine.busy() == (0, 0)
    assert engine._loop.refused > 10
    pictures = sum(todo[index].picture is not None for index in compared)
    count = sum(len(wanted[index]) for index in compared)
    print(  # for docs/performance.md, by -rP
        f"{family}: {len(compared)} requests compared ({pictures} with a picture), {count} tokens, "
        f"{REQUESTS - len(compared)} cancelled, {engine._loop.refused} waits for room"
    )


def test_sampled_text_with_a_seed_is_the_same_in_any_company(family: str, engine: Any) -> None:
    todo = cases(family, 40)
    samplings = [Sampling(1.0, top_p=(1.0, 0.8)[index % 2], seed=index) for index in range(40)]
    pairs = zip(todo, samplings, strict=True)
    alone = [tokens(engine.submit(case.request(sampling))) for case, sampling in pairs]
    found = together(engine, todo, samplings)
    assert all(text in (None, alone[index]) for index, text in enumerate(found))


def test_log_probabilities_are_those_of_transformers(
    family: str, engine: Any, tiny: Callable[[str], pathlib.Path]
) -> None:
    plain = tiny_models.load(tiny(family))
    for case in cases(family, 12):
        sampling = Sampling(temperature=0.0, top_logprobs=3)
        found = [event for event in engine.submit(case.request(sampling)) if isinstance(event, Token)]
        wanted = logits(plain, case)
        assert len(found) == len(wanted)
        for event, row in zip(found, wanted.log_softmax(-1), strict=True):
            assert event.logprobs is not None
            assert event.logprobs.logprob == pytest.approx(float(row[event.id]), abs=1e-4)
            assert [share for _, share in event.logprobs.top] == pytest.approx(
                row.topk(3).values.tolist(), abs=1e-4
            )


def logits(plain: tiny_models.Loaded, case: Case) -> torch.Tensor:
    """The model's own logits (tokens, vocabulary) at each token of its greedy answer."""
    with torch.inference_mode():
        output = plain.model.generate(
            **tiny_models.inputs_of(plain, case.messages()),
            max_new_tokens=case.tokens,
            do_sample=False,
            repetition_penalty=1.0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.cat(output.logits)
