"""The batch loop: one thread that computes all streams of a model, a step at a time.

A stream's thread runs generate(), which hands its decoding loop to `BatchLoop.decode`: that queues the
sequence and waits. The loop admits waiting sequences between steps, in order; computes prompts in chunks
beside the next tokens of all others, in one forward; draws a token for each; and lets go of a sequence at
once when it has finished, was cancelled or has failed.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from app.engine.decoder import Chunk, Decoder
from app.engine.pausing import Pausable
from app.engine.row import Row
from app.engine.sampling import choose, logprobs, numerical_error
from app.engine.stats import EngineStats
from app.errors import OutOfMemory

log = logging.getLogger(__name__)

CHUNK = 512
"""Tokens of prompts that a step computes when no stream waits for its next token."""
SHARED_CHUNK = 128
"""The same beside streams that wait: they wait for no longer than this takes."""
LEAST_CHUNK = 32
"""Of a prompt, where several share those of a step: a short one does not wait for a long one to end."""
SEEING = 0.1
"""Seconds for which pictures are encoded between two steps of streams that wait, a layer at a time."""
CLOSING = 30.0
"""Seconds that closing waits for the step that is under way."""
SAME_START = 32
"""A prompt waits for another one that is being computed if they share so many tokens of what is to come."""


class BatchLoop:
    """Computes the sequences of one model: at most `max_rows` at once, the others wait in order."""

    def __init__(self, decoder: Decoder, *, tokens: int, max_rows: int, name: str = "") -> None:
        self.capacity = tokens
        self._decoder, self._embedder = decoder, decoder.embedder
        self._cache = decoder.cache(tokens)
        self._max_rows = max_rows
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"batch {name}".strip(), daemon=True)
        self._thread.start()

    def decode(
        self,
        model: Any,
        input_ids: torch.Tensor,
        *,
        logits_processor: Sequence[Any],
        stopping_criteria: Sequence[Any],
        generation_config: GenerationConfig,
        stream: Any,
        pictures: dict[str, torch.Tensor],
        **inputs: Any,
    ) -> torch.Tensor:
        """A decoding loop for generate()'s `custom_generate`. `stream` gets each token (`put`), is told how
        it queued and says when nobody wants more (`is_cancelled`); `pictures` are the model's inputs beside
        the ids, which generate() would encode by itself. Returns prompt and generated tokens, (1, tokens).
        """
        if "inputs_embeds" in inputs:
            pictures = pictures | {"inputs_embeds": inputs["inputs_embeds"]}
        row = Row(input_ids, pictures, logits_processor, stopping_criteria, generation_config, stream)
        with self._changed:
            if self._closed:
                return row.ids()
            stream.queue_position = len(self._waiting)
            self._waiting.append(row)
            self._changed.notify_all()
        row.ended.wait()
        if row.error is not None:
            raise row.error
        return row.ids()

    def split(self, inputs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A model's inputs: those for generate(), and the pictures for `decode`. Remote code that embeds
        pictures by itself gets them all.
        """
        if self._decoder.embeds_by_itself:
            return inputs, {}
        text = ("input_ids", "attention_mask")
        return (
            {name: value for name, value in inputs.items() if name in text},
            {name: value for name, value in inputs.items() if name not in text},
        )

    def count(self) -> tuple[int, int]:
        """Running and waiting sequences."""
        with self._changed:
            return len(self._rows), len(self._waiting)

    def stats(self) -> EngineStats:
        """What the cache holds and has saved."""
        return self._cache.stats()

    def untouched_bytes(self) -> int:
        """Of the memory of its cache, what it has been promised and not taken yet."""
        with self._changed:
            return 0 if self._closed else self._cache.untouched_bytes()

    def wake(self) -> None:
        """Look for sequences that were cancelled."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread and whatever still runs; frees the cache. It waits for the step that is under way:
        an interpreter that ends meanwhile would abort.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSING)

    @torch.inference_mode()
    def _run(self) -> None:
        if self._embedder.device.type == "cuda":
            torch.cuda.set_device(self._embedder.device)  # this thread's, for graphs
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._rows or self._waiting)
                if self._closed:
                    break
            try:
                self._let_go()
                self._admit()
                if self._rows:
                    self._step()
            except BaseException as error:  # a library's panic is no Exception, and nobody may wait for ever
                log.exception("the batch loop failed")
                for row in list(self._rows):
                    self._retire(row, error)
        for row in [*self._rows, *self._waiting]:
            row.end()
        del self._cache, self._decoder, self._embedder

    def _let_go(self) -> None:
        """Take out whom nobody listens to any more."""
        with self._changed:
            gone = [row for row in self._waiting if row.stream.is_cancelled()]
            for row in gone:
                self._waiting.remove(row)
        for row in gone:
            row.end()
        for row in [row for row in self._rows if row.stream.is_cancelled()]:
            self._retire(row)

    def _admit(self) -> None:
        """Give waiting sequences their room, in order, until one does not fit. After one with pictures the
        others wait for a step, since seeing takes long, and while it is not seen all of them.
        """
        while self._waiting and len(self._rows) < self._max_rows:
            row = self._waiting[0]
            try:
                if (row.prompt is None and not self._encode(row)) or self._follows_another(row):
                    return
                place = self._cache.reserve(row.keys, len(row.keys) + row.max_tokens)
            except Exception as error:
                self._waiting.popleft()
                row.end(error)
                continue
            if place is None and self._rows:
                return
            with self._changed:
                self._waiting.popleft()
                if place is not None:
                    row.extent, row.done = place
                    row.stream.cached_tokens = row.done
                    row.stream.waited = time.monotonic() - row.came
                    self._rows.append(row)
            if place is None:
                row.end(OutOfMemory("The KV cache is smaller than this request."))
            elif row.inputs:
                return

    def _encode(self, row: Row) -> bool:
        """Make a row's prompt, as much as there is time for; whether it is there."""
        if row.encoding is None:
            row.encoding = Pausable(lambda: self._embedder.prompt(row.input_ids, row.inputs))
        began = time.monotonic()
        done = row.encoding.go_on(SEEING if self._rows else math.inf)
        if "inputs_embeds" not in row.inputs:  # else remote code has seen the pictures before
            row.stream.encoded = (row.stream.encoded or 0.0) + time.monotonic() - began
        if not done:
            return False
        row.prompt = row.encoding.result
        row.keys = self._embedder.keys(row.prompt)
        row.position = int(row.prompt.positions.max()) + 1
        return True

    def _follows_another(self, row: Row) -> bool:
        """Whether a running prompt will soon have computed what this one begins with as well."""
        known = self._cache.longest_prefix(row.keys)[1]
        for other in self._rows:
            count = min(len(other.keys), len(row.keys))
            if other.left() and count - known >= SAME_START:
                differs = (other.keys[:count] != row.keys[:count]).nonzero()
                if (int(differs[0]) if len(differs) else count) - known >= SAME_START:
                    return True
        return False

    def _step(self) -> None:
        """One forward of all that is due; on an exception, of each sequence by itself."""
        due = sorted((row for row in self._rows if not row.left()), key=lambda row: row.done)
        starting: list[tuple[Row, int]] = []
        budget = SHARED_CHUNK if due else CHUNK
        begun = [row for row in self._rows if row.left()]
        begun[1:] = sorted(
            begun[1:], key=Row.left
        )  # the one that came first has its share, however long it is
        for place, row in enumerate(begun):  # what a short one leaves of its share is the next one's
            share = max(LEAST_CHUNK, budget // (len(begun) - place))
            if count := min(row.left(), share, budget):
                starting.append((row, count))
                budget -= count
        try:
            self._compute(due, starting)
            return
        except Exception as error:
            if len(due) + len(starting) == 1:
                self._retire((due or [starting[0][0]])[0], error)
                return
            log.warning("a step failed; each sequence is tried by itself", exc_info=True)
        for one in due:
            self._alone([one], [])
        for part in starting:
            self._alone([], [part])

    def _alone(self, due: list[Row], starting: list[tuple[Row, int]]) -> None:
        row = due[0] if due else starting[0][0]
        try:
            self._compute(due, starting)
        except Exception as error:
            self._retire(row, error)

    def _compute(self, due: list[Row], starting: list[tuple[Row, int]]) -> None:
        """The forward of a step, and what comes of it."""
        starting = sorted(starting, key=lambda part: part[1] < part[0].left())  # those that end come first
        ended = [row for row, count in starting if count == row.left()]
        chunks = [
            Chunk(row.extent.start, row.done, row.prompt.part(row.done, row.done + count))
            for row, count in starting
        ]
        logits = self._decoder.forward(
            [(row.extent.start, row.done) for row in due],
            self._embedder.tokens(
                [row.generated[-1] for row in due], [row.position + len(row.generated) - 1 for row in due]
            ),
            chunks,
            len(ended),
            self._cache,
        )
        drawing = [*due, *ended]
        asking = [index for index, row in enumerate(drawing) if row.sampler.top_logprobs is not None]
        raw = logits[asking]
        if any(row.processors for row in drawing):
            logits = logits.float()  # a penalty or a bias would be rounded away
        errors = self._process(drawing, logits)
        tokens = choose(logits, [row.sampler for row in drawing])
        self._report([drawing[index] for index in asking], raw, [tokens[index] for index in asking])
        # Nothing above has changed a row: had it failed, the step could be taken again.
        for row in drawing:
            row.sampler.advance()
        for row in due:
            row.done += 1
            row.extent.written = row.done
        for row, count in starting:
            row.done += count
            row.extent.written = row.done
            row.extent.keys = row.keys[: row.done]
        for row, token in zip(drawing, tokens, strict=True):
            error = errors.get(row) or (numerical_error() if token is None else None)
            if error is not None or token is None:
                self._retire(row, error)
            else:
                self._hand_over(row, token, logits)

    @staticmethod
    def _process(rows: list[Row], logits: torch.Tensor) -> dict[Row, BaseException]:
        """Run the rows' own logits processors over logits (rows, vocabulary); what they raised, by row."""
        errors: dict[Row, BaseException] = {}
        for index, row in enumerate(rows):
            try:
                if row.processors:
                    scores = logits[index : index + 1].float()
                    for processor in row.processors:
                        scores = processor(row.ids(), scores)
                    logits[index] = scores[0]
            except BaseException as error:  # a grammar library's panic, too, is its row's alone
                errors[row] = error
        return errors

    @staticmethod
    def _report(rows: list[Row], raw: torch.Tensor, tokens: list[int | None]) -> None:
        """Tell the rows that ask the log probabilities of what was chosen, from the model's own logits."""
        if rows:
            counts = [row.sampler.top_logprobs or 0 for row in rows]
            for row, found in zip(rows, logprobs(raw, [token or 0 for token in tokens], counts), strict=True):
                row.sampler.logprobs = found

    def _hand_over(self, row: Row, token: int, logits: torch.Tensor) -> None:
        """Give a row its next token; it may have been its last."""
        row.generated.append(token)
        try:
            row.stream.put(torch.tensor([token]))
            full = len(row.generated) == row.max_tokens
            if full or token in row.stop_ids or (row.criteria and self._stops(row, logits)):
                self._retire(row)
        except Exception as error:
            self._retire(row, error)

    @staticmethod
    def _stops(row: Row, logits: torch.Tensor) -> bool:
        return any(bool(criterion(row.ids(), logits).any()) for criterion in row.criteria)

    def _retire(self, row: Row, error: BaseException | None = None) -> None:
        """Free a row; what it has computed may be of use to another one, unless it failed. Never raises."""
        with self._changed:
            self._rows.remove(row)
        if row.extent is not None:
            keys = row.keys[:0]
            try:
                keys = keys if error is not None else self._computed(row)
            except Exception:  # memory, say: what was computed is of no use then, and nothing else
                log.exception("a finished sequence cannot be kept")
            self._cache.retire(row.extent, keys)
        row.end(error)

    def _computed(self, row: Row) -> torch.Tensor:
        """The keys of all tokens that a row has in the cache."""
        new = row.generated[: max(0, row.done - len(row.keys))]
        keys = row.keys[: row.done]
        if new:
            positions = list(range(row.position, row.position + len(new)))
            keys = torch.cat([keys, self._embedder.keys(self._embedder.tokens(new, positions))])
        return keys
