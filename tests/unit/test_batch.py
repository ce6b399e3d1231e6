"""The batch loop with a tiny model: order, room, cancelling, and errors that hit the fewest."""

import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
from transformers import GenerationConfig

from app.engine import attention, batch, linear
from app.engine.batch import BatchLoop
from app.engine.decoder import Decoder
from app.engine.pausing import pauses_between_layers
from app.engine.sampling import Sampler, choose
from app.engine.stats import EngineStats
from app.engine.types import Sampling
from app.errors import GenerationFailed
from tests.conftest import wait_until

GREEDY = Sampling(temperature=0.0)


class Stream:
    """Collects tokens; may be cancelled, may block the loop at a token."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.queue_position = -1
        self.waited: float | None = None
        self.cached_tokens = 0
        self.encoded: float | None = None
        self.cancelled = False
        self.gate = threading.Event()
        self.gate.set()

    def put(self, value: torch.Tensor) -> None:
        assert self.gate.wait(20)
        self.tokens += value.flatten().tolist()

    def is_cancelled(self) -> bool:
        return self.cancelled


class Bench:
    """A loop over a tiny model, and threads that decode with it."""

    def __init__(self, model: Any, tokens: int = 2000, max_rows: int = 8) -> None:
        self.model = model
        self.decoder = Decoder(model)
        self.computed: list[tuple[int, list[int]]] = []  # of each step: rows, tokens of each chunk
        self.fails: Callable[[Any, Any], bool] = lambda rows, chunks: False
        forward = self.decoder.forward

        def counted(rows: Any, next_tokens: Any, chunks: Any, *more: Any) -> torch.Tensor:
            if self.fails(rows, chunks):
                raise RuntimeError("the step fails")
            self.computed.append((len(rows), [len(chunk.prompt) for chunk in chunks]))
            return forward(rows, next_tokens, chunks, *more)

        self.decoder.forward = counted  # type: ignore[method-assign, assignment]
        self.loop = BatchLoop(self.decoder, tokens=tokens, max_rows=max_rows)

    def decode(
        self,
        prompt: list[int],
        count: int = 5,
        stream: Stream | None = None,
        processors: tuple[Any, ...] = (),
        sampling: Sampling = GREEDY,
    ) -> "Job":
        return Job(self, prompt, count, stream or Stream(), processors, sampling)


class Job(threading.Thread):
    """One sequence's generate() thread."""

    def __init__(self, bench: Bench, prompt: list[int], count: int, stream: Stream, *more: Any) -> None:
        super().__init__(daemon=True)
        self.bench, self.prompt, self.count, self.stream, self.more = bench, prompt, count, stream, more
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        processors, sampling = self.more
        try:
            self.bench.loop.decode(
                self.bench.model,
                torch.tensor([self.prompt]),
                logits_processor=[*processors, Sampler(sampling)],
                stopping_criteria=[],
                generation_config=GenerationConfig(max_new_tokens=self.count),
                stream=self.stream,
                pictures={},
            )
        except BaseException as error:
            self.error = error

    def tokens(self) -> list[int]:
        self.join(30)
        assert not self.is_alive()
        assert self.error is None, self.error
        return self.stream.tokens


@pytest.fixture(scope="module")
def model(tiny: Callable[[str], pathlib.Path]) -> Any:
    loaded = tiny_models.load(tiny("qwen3")).model.eval()
    linear.prepare(loaded, torch.float32)
    return loaded


@pytest.fixture
def make(model: Any) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def made(**options: Any) -> Bench:
        benches.append(Bench(model, **options))
        return benches[-1]

    yield made
    for bench in benches:
        bench.loop.close()


def alone(model: Any, prompt: list[int], count: int) -> list[int]:
    """generate()'s own greedy answer."""
    config = GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=0)
    with torch.inference_mode():
        output = model.generate(torch.tensor([prompt]), generation_config=config)
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


PROMPTS = [list(range(5 + row, 10 + 7 * row)) for row in range(1, 7)]


def test_sequences_of_all_lengths_give_what_generate_gives_alone(model: Any, make: Any) -> None:
    wanted = [alone(model, prompt, 12) for prompt in PROMPTS]
    bench = make()
    assert [job.tokens() for job in [bench.decode(prompt, 12) for prompt in PROMPTS]] == wanted
    assert max(rows for rows, _ in bench.computed) > 1


@pytest.mark.parametrize("size", [1, 3, 16])
def test_prompts_in_chunks_give_the_same(
    model: Any, make: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [alone(model, prompt, 6) for prompt in PROMPTS]
    monkeypatch.setattr(batch, "CHUNK", size)
    monkeypatch.setattr(batch, "SHARED_CHUNK", size)
    bench = make()
    assert [job.tokens() for job in [bench.decode(prompt, 6) for prompt in PROMPTS]] == wanted
    assert max(sum(chunks) for _, chunks in bench.computed) == size


@pytest.mark.parametrize(("padded", "alike"), [(20, 64), (512, 4), (30, 8), (0, 0)])
def test_rows_are_padded_to_those_of_like_length_or_read_where_they_are(
    model: Any, make: Any, monkeypatch: pytest.MonkeyPatch, padded: int, alike: int
) -> None:
    wanted = [alone(model, prompt, 8) for prompt in PROMPTS]
    monkeypatch.setattr(attention, "in_place", lambda dtype: False)  # as without numba, and on a GPU
    monkeypatch.setattr(attention, "PADDED", padded)
    monkeypatch.setattr(attention, "ALIKE", alike)
    bench = make()
    assert [job.tokens() for job in [bench.decode(prompt, 8) for prompt in PROMPTS]] == wanted


def test_the_next_turn_computes_only_what_is_new(model: Any, make: Any) -> None:
    prompt = list(range(20, 60))
    bench = make()
    answer = bench.decode(prompt, 6).tokens()
    following = [*prompt, *answer, 7, 8, 9]
    wanted = bench.decode(following, 6).tokens()
    assert bench.computed[-6][1] == [4]  # the last drawn token was never fed, then three new ones
    bench.loop.close()
    assert make().decode(following, 6).tokens() == wanted


def test_prompts_that_come_at_once_share_their_beginning(make: Any) -> None:
    bench = make()
    blocker = Stream()
    blocker.gate.clear()
    first = bench.decode([1, 2, 3], 2, blocker)
    wait_until(lambda: bench.loop.count() == (1, 0))
    start = list(range(100, 200))
    jobs = [bench.decode([*start, last], 3) for last in (5, 6, 7)]
    wait_until(lambda: bench.loop.count()[1] == 3)
    blocker.gate.set()
    for job in [first, *jobs]:
        assert len(job.tokens()) == job.count
    computed = sum(sum(chunks) for _, chunks in bench.computed)
    assert computed == 3 + 101 + 1 + 1


def test_at_most_so_many_rows_run_and_the_others_wait_in_order(make: Any) -> None:
    bench = make(max_rows=2)
    blocked = [Stream() for _ in range(2)]
    for stream in blocked:
        stream.gate.clear()
    jobs = [bench.decode([1, 2 + row], 3, stream) for row, stream in enumerate(blocked)]
    wait_until(lambda: sum(bench.loop.count()) == 2)
    jobs += [bench.decode([3, 4 + row], 3) for row in range(3)]
    wait_until(lambda: sum(bench.loop.count()) == 5)
    for stream in blocked:
        stream.gate.set()
    assert [len(job.tokens()) for job in jobs] == [3] * 5
    assert max(rows + len(chunks) for rows, chunks in bench.computed) == 2


def test_streams_are_told_how_they_queued(make: Any) -> None:
    bench = make(max_rows=1)
    streams = [Stream() for _ in range(4)]
    streams[0].gate.clear()
    jobs = []
    for row, stream in enumerate(streams):
        jobs.append(bench.decode([1, 2 + row], 2, stream))
        wait_until(lambda: sum(bench.loop.count()) == row + 1)  # noqa: B023
        wait_until(lambda: bench.loop.count()[0] == 1)
    assert [stream.queue_position for stream in streams] == [0, 0, 1, 2]
    assert [stream.waited is None for stream in streams] == [False, True, True, True]
    streams[0].gate.set()
    for job in jobs:
        job.tokens()
    assert all(stream.waited is not None and 0 <= stream.waited < 60 for stream in streams)


def test_the_cache_says_what_it_holds(make: Any) -> None:
    bench = make(tokens=200)
    stream = Stream()
    stream.gate.clear()
    job = bench.decode(list(range(20, 50)), 10, stream)
    wait_until(lambda: bench.loop.stats().kv_running == 40)
    assert bench.loop.stats() == EngineStats(kv_running=40, kv_capacity=200)
    stream.gate.set()
    job.tokens()
    wait_until(lambda: bench.loop.stats() == EngineStats(kv_kept=39, kv_capacity=200))
    again = Stream()
    bench.decode([*range(20, 50), 3], 2, again).tokens()
    assert again.cached_tokens == 30


def test_what_does_not_fit_the_cache_waits_and_then_runs(model: Any, make: Any) -> None:
    prompts = [list(range(10 * row, 10 * row + 30)) for row in range(1, 5)]
    wanted = [alone(model, prompt, 20) for prompt in prompts]
    bench = make(tokens=110)
    assert [job.tokens() for job in [bench.decode(prompt, 20) for prompt in prompts]] == wanted
    assert max(rows + len(chunks) for rows, chunks in bench.computed) == 2


def test_a_cancelled_sequence_leaves_at_its_next_token_or_from_the_queue(make: Any) -> None:
    bench = make(max_rows=1)
    running, waiting = Stream(), Stream()
    running.gate.clear()
    one = bench.decode([1, 2], 500, running)
    wait_until(lambda: bench.loop.count() == (1, 0))
    other = bench.decode([3, 4], 5, waiting)
    wait_until(lambda: bench.loop.count() == (1, 1))
    waiting.cancelled = running.cancelled = True
    running.gate.set()
    bench.loop.wake()
    assert len(one.tokens()) <= 2
    assert other.tokens() == []
    assert bench.loop.count() == (0, 0)


def test_a_processor_that_raises_fails_its_own_sequence_only(model: Any, make: Any) -> None:
    wanted = alone(model, PROMPTS[0], 8)

    def broken(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 12:
            raise ValueError("processor")
        return scores

    bench = make()
    bad = bench.decode(list(range(30, 40)), 20, processors=(broken,))
    good = bench.decode(PROMPTS[0], 8)
    assert good.tokens() == wanted
    bad.join(20)
    assert isinstance(bad.error, ValueError)
    assert bench.loop.count() == (0, 0)


def test_nan_logits_fail_their_own_sequence_only(model: Any, make: Any) -> None:
    wanted = alone(model, PROMPTS[1], 8)
    bench = make()
    bad = bench.decode(list(range(30, 40)), 20, processors=(lambda ids, scores: scores * torch.nan,))
    assert bench.decode(PROMPTS[1], 8).tokens() == wanted
    bad.join(20)
    assert isinstance(bad.error, GenerationFailed)
    assert bad.error.code == "numerical_error"


def test_a_step_that_fails_is_tried_again_for_each_sequence(model: Any, make: Any) -> None:
    wanted = [alone(model, prompt, 10) for prompt in PROMPTS]
    bench = make()
    # Out of memory, say, whenever the longest prompt is in the step.
    bench.fails = lambda rows, chunks: any(
        chunk.done + len(chunk.prompt) == len(PROMPTS[-1]) for chunk in chunks
    )
    jobs = [bench.decode(prompt, 10) for prompt in PROMPTS]
    assert [job.tokens() for job in jobs[:-1]] == wanted[:-1]
    jobs[-1].join(20)
    assert isinstance(jobs[-1].error, RuntimeError)
    bench.fails = lambda rows, chunks: False
    assert bench.decode(PROMPTS[-1], 10).tokens() == wanted[-1]


def test_a_row_that_cannot_be_kept_ends_like_any_other(
    model: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    keys, broken = bench.decoder.embedder.keys, iter([True])

    def sometimes(prompt: Any) -> torch.Tensor:
        if int(prompt.positions.min()) and next(broken, False):  # the first of what was generated
            raise MemoryError
        found: torch.Tensor = keys(prompt)
        return found

    monkeypatch.setattr(bench.decoder.embedder, "keys", sometimes)
    jobs = [bench.decode(prompt, 4 + 3 * index) for index, prompt in enumerate(PROMPTS[:3])]
    for index, job in enumerate(jobs):
        assert job.tokens() == alone(model, PROMPTS[index], 4 + 3 * index)
    assert bench.loop.count() == (0, 0)


def test_a_short_prompt_does_not_wait_for_a_long_one_to_be_computed(make: Any) -> None:
    bench = make()
    running = Stream()
    bench.decode([3, 4], 200, running)
    wait_until(lambda: len(running.tokens) > 2)
    running.gate.clear()
    jobs = [bench.decode([7, *range(5, 405)], 3), bench.decode([8, 9, 10], 3)]
    wait_until(lambda: bench.loop.count()[1] == 2)
    running.gate.set()
    for job in jobs:
        assert len(job.tokens()) == 3
    running.cancelled = True
    together = next(chunks for _, chunks in bench.computed if len(chunks) == 2)
    assert min(together) == 3  # the short one whole, beside a part of the long one
    assert max(together) < 401


def test_a_long_prompt_is_computed_beside_short_ones_that_go_on_coming(model: Any, make: Any) -> None:
    bench = make(max_rows=6)
    order: list[Stream] = []

    class Noted(Stream):
        def put(self, value: torch.Tensor) -> None:
            order.append(self)
            super().put(value)

    first = Stream()
    first.gate.clear()
    bench.decode([3, 4], 500, first)
    wait_until(lambda: bench.loop.count() == (1, 0))
    long = [7, *(3 + place % 90 for place in range(400))]
    job = bench.decode(long, 1, Noted())
    wait_until(lambda: bench.loop.count() == (1, 1))
    shorts = [bench.decode([9, number, *range(5, 100)], 1, Noted()) for number in range(60)]
    wait_until(lambda: bench.loop.count() == (1, 61))
    first.cancelled = True
    first.gate.set()
    assert job.tokens() == alone(model, long, 1)
    assert all(len(short.tokens()) == 1 for short in shorts)
    assert order.index(job.stream) < 50


class Slow:
    """In place of an embedder's `prompt`: five layers, before each of which it may stop."""

    def __init__(self, bench: Bench) -> None:
        self.made, self.bench = bench.decoder.embedder.prompt, bench
        self.steps: list[int] = []  # of the loop, at each layer
        self.layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(5))
        pauses_between_layers(self.layers, without=torch.nn.Identity())
        bench.decoder.embedder.prompt = self  # type: ignore[method-assign, assignment]

    def __call__(self, ids: torch.Tensor, inputs: Any) -> Any:
        for layer in self.layers:
            layer(ids)
            self.steps.append(len(self.bench.computed))
        return self.made(ids, inputs)


def test_streams_go_on_while_a_picture_is_encoded(
    model: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SEEING", 0.0)
    bench = make()
    running = bench.decode(PROMPTS[0], 400)
    wait_until(lambda: len(running.stream.tokens) > 2)
    slow = Slow(bench)
    seeing = bench.decode(PROMPTS[1], 12)
    assert seeing.tokens() == alone(model, PROMPTS[1], 12)
    assert len(set(slow.steps)) == len(slow.steps) == 5
    running.stream.cancelled = True
    running.tokens()


def test_a_picture_that_nobody_waits_for_is_given_up_between_two_layers(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "SEEING", 0.0)
    bench = make()
    running = bench.decode(PROMPTS[0], 400)
    wait_until(lambda: len(running.stream.tokens) > 2)
    slow = Slow(bench)
    left = Stream()
    monkeypatch.setattr(left, "is_cancelled", lambda: len(slow.steps) >= 2)
    assert bench.decode(PROMPTS[1], 12, left).tokens() == []
    assert len(slow.steps) == 2
    running.stream.cancelled = True
    running.tokens()


def test_a_stream_whose_put_raises_fails_alone(model: Any, make: Any) -> None:
    class Broken(Stream):
        def put(self, value: torch.Tensor) -> None:
            raise OSError("reader")

    bench = make()
    bad = bench.decode([1, 2, 3], 5, Broken())
    assert bench.decode(PROMPTS[2], 5).tokens() == alone_with(bench, model, PROMPTS[2], 5)
    bad.join(20)
    assert isinstance(bad.error, OSError)


def alone_with(bench: Bench, model: Any, prompt: list[int], count: int) -> list[int]:
    """What the loop gives with nobody else in it."""
    return bench.decode(prompt, count).tokens()


@pytest.mark.parametrize("sampling", [Sampling(1.3, seed=4), Sampling(1.0, top_p=0.8, top_k=20, seed=9)])
def test_a_seed_gives_the_same_in_any_company(make: Any, sampling: Sampling) -> None:
    bench = make()
    wanted = bench.decode(PROMPTS[3], 20, sampling=sampling).tokens()
    company = [bench.decode(prompt, 25, sampling=Sampling(1.5)) for prompt in PROMPTS]
    assert bench.decode(PROMPTS[3], 20, sampling=sampling).tokens() == wanted
    for job in company:
        job.tokens()


def test_a_step_that_fails_after_its_draws_changes_no_seeded_text(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = Sampling(1.3, seed=9)
    wanted = make().decode(PROMPTS[2], 12, sampling=sampling).tokens()
    calls = iter(range(1000))

    def fails_sometimes(*arguments: Any) -> list[int | None]:
        found = choose(*arguments)
        if len(arguments[1]) > 1 and next(calls) in (1, 4):  # not when each is tried by itself
            raise RuntimeError("out of memory")
        return found

    monkeypatch.setattr(batch, "choose", fails_sometimes)
    bench = make()
    jobs = [bench.decode(PROMPTS[2], 12, sampling=sampling), bench.decode(PROMPTS[4], 12)]
    assert jobs[0].tokens() == wanted
    assert len(jobs[1].tokens()) == 12


def test_a_closed_loop_lets_everybody_go(make: Any) -> None:
    bench = make()
    stream = Stream()
    stream.gate.clear()
    job = bench.decode([1, 2], 500, stream)
    wait_until(lambda: bench.loop.count() == (1, 0))
    closing = threading.Thread(target=bench.loop.close)
    closing.start()  # it waits for the step that is under way
    stream.gate.set()
    assert len(job.tokens()) <= 2
    closing.join(20)
    assert not closing.is_alive()
    assert bench.decode([1, 2], 5).tokens() == []
