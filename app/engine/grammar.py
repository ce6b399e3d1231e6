"""Structured output: a grammar holds a sequence to what its request asked for, by a mask on the logits.

llguidance does the work. What it makes of a grammar is kept, so that the next request with the same one
starts at once. A grammar that is new is tried out first in another process (grammar_check.py).
"""

import functools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llguidance import LLMatcher, LLTokenizer
from transformers import LogitsProcessor, StoppingCriteria

from app.engine import lark
from app.engine.grammar_check import limits
from app.engine.grammar_process import Checker, short
from app.engine.types import Grammar
from app.errors import GenerationFailed, InvalidRequest

KEPT = 64
"""Grammars that are kept compiled, and verdicts on those that cannot be."""
LONGEST = 512 * 1024
"""Characters of a grammar: many tools have more than one schema can."""


@dataclass(frozen=True)
class Thought:
    """Tokens that begin and end a thought, after which the grammar begins. `opened` says that the prompt has
    begun one; else the answer may, with its first token.
    """

    open_id: int
    close_id: int
    opened: bool


class Grammars:
    """The grammars of one model."""

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int]) -> None:
        self._tokenizer, self._stop_ids = tokenizer, stop_ids
        self._vocabulary: LLTokenizer | None = None
        self._known: OrderedDict[tuple[str, str, bool], LLMatcher | str] = OrderedDict()
        self._lock = threading.Lock()
        self._making_vocabulary = threading.Lock()
        self._checker = Checker()

    def guide(self, grammar: Grammar, thought: Thought | None = None, ends: Sequence[int] = ()) -> "Guide":
        """What holds one sequence to a grammar; `ends` are tokens that end it as the model's own stop tokens
        do. Raises InvalidRequest for a grammar that cannot be.
        """
        matcher = functools.partial(self._matcher, grammar)
        return Guide(matcher, self._stop_ids, grammar.param, thought, ends)

    def close(self) -> None:
        """End the other process."""
        self._checker.close()

    def _matcher(self, grammar: Grammar, new: bool = False) -> LLMatcher:
        """A matcher at the grammar's beginning; a `new` one shares nothing with those of earlier sequences,
        whose lexers grow together until they reach their limit.
        """
        if len(grammar.source) > LONGEST:
            raise InvalidRequest(
                f"The grammar has {len(grammar.source)} characters; the most is {LONGEST}.",
                param=grammar.param,
                code="invalid_grammar",
            )
        key = (grammar.kind, grammar.source, grammar.lenient)
        with self._lock:
            known = self._known.pop(key, None)
            if known is not None and not new:
                self._known[key] = known
        if known is None or new:
            known = self._compiled(grammar)
            with self._lock:
                self._known[key] = known
                while len(self._known) > KEPT:
                    self._known.popitem(last=False)
        if isinstance(known, str):
            word = "schema" if grammar.kind == "json" else "grammar"
            raise InvalidRequest(
                f"This cannot be used as a {word}: {known}.", param=grammar.param, code=f"invalid_{word}"
            )
        return known.deep_copy()

    def _compiled(self, grammar: Grammar) -> LLMatcher | str:
        """A grammar ready for use, or why it cannot be."""
        try:
            text = self._checker.check(grammar)
        except ValueError as reason:
            return str(reason)
        for tag in lark.TAGS:
            if (token := self._tokenizer.get_added_vocab().get(tag)) is not None:
                text = text.replace(json.dumps(tag), f"<[{token}]>")
        matcher = LLMatcher(self._tokens(), text, log_level=0, limits=limits())
        return short(matcher.get_error()) if matcher.is_error() else matcher

    def _tokens(self) -> LLTokenizer:
        """The model's vocabulary as the library has it; takes a second for a large one, once."""
        with self._making_vocabulary:
            if self._vocabulary is None:
                source = self._tokenizer.backend_tokenizer.to_str()
                ends = sorted(stop for stop in self._stop_ids if stop < len(self._tokenizer))
                self._vocabulary = LLTokenizer(source, eos_token=ends or None)
            return self._vocabulary


class Guide(LogitsProcessor):
    """Holds one sequence to its grammar: leaves only the tokens open that can come next.

    Its state follows the ids that it is called with, so that a step that failed can be taken again. When the
    grammar is complete only the model's stop tokens are left, and those in `ends`, which like them are closed
    where the grammar may not end: what ends with one is complete.
    """

    def __init__(
        self,
        matcher: Callable[[bool], LLMatcher],
        stop_ids: frozenset[int],
        param: str,
        thought: Thought | None = None,
        ends: Sequence[int] = (),
    ) -> None:
        self._make, self._param, self._thought, self._ends = matcher, param, thought, list(ends)
        self._stop_ids = torch.tensor(sorted(stop_ids), dtype=torch.long)
        self._matcher = matcher(False)
        self._taken: list[int] = []
        self._first: int | None = None  # where the answer begins
        self.complete = False  # as of the last `is_complete`

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with all but the next tokens at -inf; raises InvalidRequest when the grammar turns out to be
        too complex, GenerationFailed when the sequence has left it.
        """
        answer = self._answer(input_ids)
        begin = self._begin(answer)
        if begin is None:
            return scores.index_fill(1, self._stop_ids.to(scores.device), float("-inf"))
        open_tokens = np.zeros(scores.shape[1], dtype=bool)
        bits = self._open(answer[begin:])[: len(open_tokens)]
        open_tokens[: len(bits)] = bits
        if self._ends:
            open_tokens[self._ends] = self._matcher.is_accepting()
            if not open_tokens.any():
                raise InvalidRequest(
                    "The grammar can go on with nothing but a stop token.",
                    param="stop_token_ids",
                    code="invalid_parameter_combination",
                )
        if self._thought is not None and not self._thought.opened and not answer:
            open_tokens[self._thought.open_id] = True
        return _only(scores, open_tokens)

    def is_complete(self, ids: torch.Tensor) -> bool:
        """Whether nothing can follow any more; ids are those of prompt and answer."""
        answer = self._answer(ids)
        begin = self._begin(answer)
        follows = begin is not None and self._follow(answer[begin:])
        self.complete = follows and self._matcher.is_stopped()
        return self.complete

    def _answer(self, ids: torch.Tensor) -> list[int]:
        if self._first is None:
            self._first = ids.shape[1]
        answer: list[int] = ids[0, self._first :].tolist()
        return answer

    def _begin(self, answer: Sequence[int]) -> int | None:
        """Where in the answer the grammar begins; None while a thought goes on."""
        thought = self._thought
        if thought is None or not (thought.opened or (answer and answer[0] == thought.open_id)):
            return 0
        return answer.index(thought.close_id) + 1 if thought.close_id in answer else None

    def _open(self, tokens: list[int]) -> npt.NDArray[np.bool_]:
        """Which tokens may follow these."""
        for _ in range(2):
            if self._follow(tokens):
                mask = self._matcher.compute_bitmask()
                if not self._matcher.is_error():
                    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
                    if not bits.any():
                        raise GenerationFailed("The model's vocabulary has no token that the grammar takes.")
                    return bits.view(bool)
            error = self._matcher.get_error()
            self._matcher, self._taken = self._make(True), []
        raise InvalidRequest(
            f"The grammar cannot be followed: {short(error)}.", param=self._param, code="invalid_grammar"
        )

    def _follow(self, tokens: list[int]) -> bool:
        """Take what is new of these tokens; False after an error."""
        known = len(self._taken)
        if tokens[:known] != self._taken:
            self._matcher, self._taken, known = self._make(False), [], 0
        if len(tokens) > known:
            self._taken = tokens
            self._matcher.consume_tokens(tokens[known:])
        return not self._matcher.is_error()


class Completion(StoppingCriteria):
    """Ends a sequence with its grammar, whether the model would say its stop token or not."""

    def __init__(self, guide: Guide) -> None:
        self._guide = guide

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((1,), self._guide.is_complete(input_ids), device=input_ids.device)


def _only(scores: torch.Tensor, open_tokens: npt.NDArray[np.bool_]) -> torch.Tensor:
    """Scores (1, vocabulary) of the open tokens, -inf for the others. Where other processors have forbidden
    all that the grammar allows, the grammar goes first.
    """
    if scores.device.type != "cpu":
        mask = torch.from_numpy(open_tokens).to(scores.device)
        if bool(scores[0, mask].max() == float("-inf")):
            scores = torch.zeros_like(scores)
        return scores.where(mask, float("-inf"))
    # numpy: torch would share so small a piece of work between threads, which takes longer.
    kept = np.full(scores.shape, -np.inf, dtype=np.float32)
    np.copyto(kept, scores.float().numpy(), where=open_tokens)
    if kept.max() == -np.inf:
        kept[0, open_tokens] = 0.0
    return torch.from_numpy(kept)
