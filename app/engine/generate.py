"""The stream's thread: from a request to generate(), whose tokens go into the stream (stream.py).

`TransformersEngine` starts a thread for each choice (submit.py), which runs
`model.generate(…, streamer=stream)`. The decoding loop of generate() is the model's batch loop, which
computes all streams together, and what choices begin with once; a model that cannot be batched keeps
transformers' own. Leaving is `cancel`: the generation ends at its next token.
"""

import functools
import gc
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from app.engine import linear
from app.engine.batch import BatchLoop
from app.engine.encode import PromptEncoder
from app.engine.grammar import Completion
from app.engine.sampling import logprobs
from app.engine.stats import EngineStats, device_memory
from app.engine.stream import TokenStream
from app.engine.submit import LanguageEngine, Work
from app.engine.turns import Turns
from app.engine.types import Defaults, Logprobs, ModelSpec
from app.engine.vision import Features
from app.errors import ApiError, GenerationFailed, OutOfMemory
from app.telemetry import request_id

log = logging.getLogger(__name__)

SCORED = 64
"""Tokens of a prompt whose logits are held at once when they are scored."""


class TransformersEngine(LanguageEngine):
    """A model that runs transformers' generate(), in one thread for each stream; `loop` computes them all, or
    without one each computes for itself, `max_concurrent` at once.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model: Any,
        encoder: PromptEncoder,
        *,
        defaults: Defaults,
        context_length: int,
        stop_ids: frozenset[int],
        max_concurrent: int,
        loop: BatchLoop | None = None,
    ) -> None:
        room = context_length if loop is None else min(context_length, loop.capacity)
        super().__init__(
            spec,
            encoder,
            defaults=defaults,
            context_length=room,
            stop_ids=stop_ids,
            device=str(model.device),
        )
        if room < context_length:
            self._limit = f"The KV cache has room for {room} tokens, see --kv-cache-gb"
        self._model = model
        self._loop = loop
        # With a loop these are for the scores of prompts alone.
        self._turns = Turns(max_concurrent if loop is None else 1)
        self._lost: str | None = None

    def is_batched(self) -> bool:
        """Whether all streams are computed together."""
        return self._loop is not None

    def busy(self) -> tuple[int, int]:
        """Running and waiting generations."""
        running, waiting = self._turns.count()
        batched = (0, 0) if self._loop is None else self._loop.count()
        return running + batched[0], waiting + batched[1]

    def fault(self) -> str | None:
        """Why its device never computes again in this process."""
        return self._lost

    def is_lost(self) -> bool:
        """Whether only a new process can compute again."""
        return self._lost is not None

    def memory_bytes(self) -> int:
        """Bytes of the weights."""
        own = sum(weight.numel() * weight.element_size() for weight in self._model.parameters())
        return int(own) + linear.packed_bytes(self._model)

    def stats(self) -> EngineStats:
        """What the batch loop says, the known pictures, and the memory of a GPU."""
        stats = EngineStats() if self._loop is None else self._loop.stats()
        features = getattr(getattr(self._model, "model", None), "get_image_features", None)
        if isinstance(features, Features):
            stats = replace(stats, vision_hits=features.hits, vision_misses=features.misses)
        return replace(stats, device_memory=device_memory(self.device))

    def close(self) -> None:
        """Drop the model; a generation that still winds down keeps it until its last token."""
        self._model = None
        self._grammars.close()
        if self._loop is not None:
            self._loop.close()
        gc.collect()  # what was put before the model's methods refers to the model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _begin(self, works: Sequence[Work]) -> None:
        for work in works:
            threading.Thread(target=self._run, args=(work,), name="generate", daemon=True).start()

    def _wake(self) -> None:
        self._turns.wake()
        if self._loop is not None:
            self._loop.wake()

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs on the model's device, pixels in the model's number format."""
        model = self._model
        return {
            name: value.to(model.device, model.dtype if name.startswith("pixel_values") else value.dtype)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }

    def _run(self, work: Work) -> None:
        request_id.set(work.request_name)
        stream = work.stream
        error: ApiError | None = None
        ids: torch.Tensor | None = None
        try:
            if work.first and work.request.score_prompt:
                stream.prompt_logprobs = self._scored(work)
            if work.request.max_tokens == 0:
                pass
            elif self._loop is not None:
                own, pictures = self._loop.split(work.inputs)
                decode = functools.partial(self._loop.decode, stream=stream, pictures=pictures)
                ids = self._generate(work, own, custom_generate=decode)
            else:
                came, stream.queue_position = time.monotonic(), self._turns.count()[1]
                with self._turns.turn(stream.is_cancelled) as mine:
                    if mine:
                        stream.waited = time.monotonic() - came
                        ids = self._generate(work, work.inputs, _Cancelled(stream))
            if work.guide is not None and ids is not None:
                work.guide.is_complete(ids)  # the last token may have come with the limit
            stream.end()
        except ApiError as known:
            error = known
        except BaseException as unknown:
            log.exception("generate() failed")
            error = _explained(unknown)
            if "CUDA error" in str(unknown):  # its context is broken for good
                self._lost = f"The device has failed ({type(unknown).__name__})."
        if error is not None:
            # Outside of the except blocks: a traceback would keep the request's tensors alive.
            stream.fail(error.with_traceback(None))

    def _generate(
        self, work: Work, inputs: dict[str, Any], *criteria: StoppingCriteria, **options: Any
    ) -> torch.Tensor | None:
        """What generate() returns: ids, with or without those of the prompt."""
        model = self._model
        if model is None:  # closed between the turn and here: whoever asked has left
            return None
        ending = [] if work.guide is None else [Completion(work.guide)]
        config = GenerationConfig(
            max_new_tokens=work.max_tokens,
            do_sample=False,  # the sampler has chosen already
            eos_token_id=sorted(work.stop_ids) or None,
            pad_token_id=min(self._stop_ids, default=0),
        )
        with torch.inference_mode():
            ids: torch.Tensor = model.generate(
                **inputs,
                generation_config=config,
                logits_processor=[work.sampler],
                stopping_criteria=StoppingCriteriaList([*criteria, *ending]),
                streamer=work.stream,
                **options,
            )
        return ids

    def _scored(self, work: Work) -> tuple[Logprobs | None, ...]:
        """The same as `_score`, one prompt at a time; nothing if the client leaves before its turn."""
        with self._turns.turn(work.stream.is_cancelled) as mine:
            return self._score(work) if mine else ()

    @torch.inference_mode()
    def _score(self, work: Work) -> tuple[Logprobs | None, ...]:
        """The log probabilities of a text prompt's tokens."""
        ids = work.inputs["input_ids"]
        model, count = self._model, work.request.sampling.top_logprobs or 0
        hidden, head = model.base_model(input_ids=ids, use_cache=False)[0][0], model.get_output_embeddings()
        found: list[Logprobs | None] = [None]
        for start in range(0, ids.shape[1] - 1, SCORED):
            wanted = ids[0, start + 1 : start + 1 + SCORED].tolist()
            logits = head(hidden[start : start + len(wanted)])
            found += logprobs(logits, wanted, [count] * len(wanted))
        return tuple(found)


class _Cancelled(StoppingCriteria):
    def __init__(self, stream: TokenStream) -> None:
        self._stream = stream

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stream.is_cancelled(), device=input_ids.device)


def _explained(error: BaseException) -> ApiError:
    """What a client is told of an exception in generate(): its kind, never its text."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return OutOfMemory("The device's memory ran out for this request; try a shorter one.", retry_after=5)
    return GenerationFailed(f"The model failed while it generated ({type(error).__name__}).")
