"""What passes between the layers: requests, events, and the Engine protocol. Plain data, no torch.

A `ChatRequest` is what a client asked for, checked but not resolved. The completion service turns it into a
`GenerationRequest` (pictures decoded, defaults filled in), which an `Engine` turns into a `Generation`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class TextPart:
    """A piece of a message's text."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """A picture: where it comes from (`source`, in a ChatRequest) or what it is (`image`, RGB, decoded).

    `param` is its place in the request, such as messages[0].content[1].image_url.url.
    """

    source: str = field(repr=False)
    param: str
    image: Any = None


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class ChatRequest:
    """A chat completion as the client asked for it; None where it left the choice to the model."""

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy; top_k 0 and min_p 0 are off; seed None draws a
    fresh one; top_logprobs None tells no log probabilities.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    top_logprobs: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One answer to be generated; `max_tokens` None means the model's default or what still fits."""

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    ignore_eos: bool = False


@dataclass(frozen=True)
class Defaults:
    """A model's own choices where a request makes none; None where the model has no opinion either."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True)
class ModelSpec:
    """An entry of the catalogue."""

    id: str
    source: str
    engine: str = "transformers"
    dtype: str = "auto"
    quantization: str = "none"
    device: str = "auto"
    modalities: tuple[str, ...] = ("text",)
    context_length: int | None = None
    aliases: tuple[str, ...] = ()
    trust_remote_code: bool = False
    revision: str | None = None
    defaults: Defaults = Defaults()


@dataclass(frozen=True)
class Logprobs:
    """The log probability (nats) of a token in the model's own distribution, before temperature and all else,
    and the likeliest tokens with theirs.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Token:
    """One generated token and the text that it completes, which may be empty."""

    id: int
    text: str
    logprobs: Logprobs | None = None


@dataclass(frozen=True)
class Idle:
    """Nothing arrived for a tick: time to look at the clock and at the client."""


@dataclass(frozen=True)
class Finish:
    """The last event: why the model stopped, and text that was held back until then."""

    reason: FinishReason
    text: str = ""


Event = Token | Idle | Finish

Progress = Callable[[str, float], None]
"""Called by a load with what is being done and the share done, 0 … 1."""


class Generation(Protocol):
    """A running generation. Iterating it raises whatever was raised in its worker; `cancel` is idempotent.
    `cached_tokens` are those of the prompt that were known and not computed again, once it runs.
    """

    prompt_tokens: int
    image_tokens: int
    cached_tokens: int

    def __iter__(self) -> Iterator[Event]: ...

    def cancel(self) -> None:
        """Stop within a token or two; the worker's thread ends by itself."""


class Engine(Protocol):
    """A loaded model."""

    spec: ModelSpec
    defaults: Defaults
    device: str
    context_length: int
    modalities: tuple[str, ...]

    def submit(self, request: GenerationRequest) -> Generation:
        """Start a generation; raises InvalidRequest for a prompt that this model cannot take."""

    def busy(self) -> tuple[int, int]:
        """How many generations run and how many wait for their turn."""

    def memory_bytes(self) -> int:
        """Bytes that the model's weights take on its device."""

    def close(self) -> None:
        """Free the model; called when nothing runs on it any more."""
