"""What passes between the layers: requests, events, and the Engine protocol. Plain data, no torch.

A `ChatRequest` is what a client asked for, checked but not resolved. The completion service turns it into a
`GenerationRequest` (pictures decoded, defaults filled in), which an `Engine` turns into a `Generation`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from app.engine.media_types import Fitter, ImagePart, VideoPart
from app.engine.stats import EngineStats

FinishReason = Literal["stop", "length", "tool_calls", "error"]
ToolFormat = Literal["hermes", "llama"]
"""How a model writes tool calls: as Qwen does, after Hermes, or as Llama 3.1 does."""


@dataclass(frozen=True)
class TextPart:
    """A piece of a message's text."""

    text: str


Part = TextPart | ImagePart | VideoPart


@dataclass(frozen=True)
class ToolCall:
    """A call that an assistant has made; `arguments` is the text of a JSON object, or was to be."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `tool_call_id` says which call a tool's message answers."""

    role: str
    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Function:
    """A function that a model may call; `parameters` is a JSON schema."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)
    description: str | None = None
    strict: bool = False


@dataclass(frozen=True)
class Tools:
    """The functions that may be called; `choice` none, auto, required, or with `named` only that one."""

    functions: tuple[Function, ...]
    choice: Literal["none", "auto", "required"] = "auto"
    named: str | None = None
    parallel: bool = True


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a client may ask of any answer; None where it left the choice to the model, or for temperature to
    `usual_temperature`, if there is one. `top_logprobs` None asks for no log probabilities at all.
    """

    model: str | None = None
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    min_tokens: int = 0
    temperature: float | None = None
    usual_temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class Template:
    """How a conversation is rendered. `thinking` None leaves it to the model; `variables` are for its chat
    template, which may know them or not.
    """

    thinking: bool | None = None
    variables: tuple[tuple[str, Any], ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False


TEMPLATE = Template()


@dataclass(frozen=True)
class Grammar:
    """What an answer has to be: `source` is a JSON schema, a JSON list of choices, a regular expression, or a
    grammar in Lark's or GBNF's language, `param` its place in the request. `lenient` leaves out what of a
    schema cannot be enforced.
    """

    kind: Literal["json", "choice", "regex", "lark"]
    source: str
    param: str
    lenient: bool = False


@dataclass(frozen=True, kw_only=True)
class ChatRequest(Wishes):
    """A chat completion as the client asked for it."""

    messages: tuple[Message, ...]
    template: Template = TEMPLATE
    max_thinking_tokens: int | None = None
    tools: Tools | None = None
    grammar: Grammar | None = None
    media_info: bool = False


@dataclass(frozen=True, kw_only=True)
class TextRequest(Wishes):
    """Text completions, `n` for each of the prompts (texts or token ids), as the client asked for them; of
    `best_of` for each prompt the likeliest `n` are wanted.
    """

    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool = False
    best_of: int = 1


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Temperature 0 is greedy; top_k 0 and min_p 0 are off; seed None draws a
    fresh one; top_logprobs None tells no log probabilities. `stop_token_ids` are none before `min_tokens`.
    """

    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    top_logprobs: int | None = None
    min_tokens: int = 0


@dataclass(frozen=True)
class GenerationRequest:
    """`n` answers to one prompt: `messages`, or a `prompt` that is a text or token ids; `prompt_param` is its
    place in the request. `max_tokens` None means the model's default or what still fits, and 0 none at all.
    `score_prompt` asks for the log probabilities of the prompt's own tokens.
    """

    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    max_tokens_param: str = "max_tokens"
    ignore_eos: bool = False
    n: int = 1
    stop_token_ids: tuple[int, ...] = ()
    template: Template = TEMPLATE
    max_thinking_tokens: int | None = None
    tools: Tools | None = None
    prompt: str | tuple[int, ...] | None = None
    prompt_param: str = "messages"
    score_prompt: bool = False
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Defaults:
    """A model's own choices where a request makes none; None where the model has no opinion either. With
    `greedy_only` it can do nothing but temperature 0, which is then what a request gets that names none.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    min_p: float | None = None
    thinking: bool | None = None
    greedy_only: bool = False


@dataclass(frozen=True)
class ModelSpec:
    """An entry of the catalogue. `thinking_prompt` is put after the last question where a model's template
    has no other way to ask for thinking.
    """

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
    thinking_prompt: str | None = None
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
    """One generated token of a choice and the text that it completes, which may be empty."""

    id: int
    text: str
    logprobs: Logprobs | None = None
    choice: int = 0


@dataclass(frozen=True)
class Idle:
    """Nothing arrived for a tick: time to look at the clock and at the client."""


@dataclass(frozen=True)
class Finish:
    """The last event of a choice: why the model stopped, and text that was held back until then."""

    reason: FinishReason
    text: str = ""
    choice: int = 0


Event = Token | Idle | Finish

Progress = Callable[[str, float], None]
"""Called by a load with what is being done and the share done, 0 … 1."""


@dataclass(frozen=True)
class PromptInfo:
    """What became of a prompt: its tokens, how many of them stand for pictures and for clips (`media_tokens`:
    for each of them, pictures first) and how many were known and not computed again (once it runs).
    `encoded` is how long the pictures and clips took to encode, in seconds, None where nobody can tell.
    `thinking` says that it ends inside of a thought that the answer has to end; `logprobs` are those of its
    tokens, where they were asked for, None for the first; `tool_format` is how calls will be written, where
    tools may be called.
    """

    ids: tuple[int, ...]
    image_tokens: int = 0
    cached_tokens: int = 0
    video_tokens: int = 0
    media_tokens: tuple[int, ...] = ()
    encoded: float | None = None
    thinking: bool = False
    logprobs: tuple[Logprobs | None, ...] = ()
    tool_format: ToolFormat | None = None


Wait = tuple[int, float | None]
"""How many waited already when a choice came to its queue, and the seconds until its turn, None before."""


class Generation(Protocol):
    """Running choices, `n` for each request, numbered in order. Iterating raises whatever was raised in a
    worker; `cancel` is idempotent.
    """

    def __iter__(self) -> Iterator[Event]: ...

    def prompts(self) -> Sequence[PromptInfo]:
        """The prompt of each request."""

    def waits(self) -> Sequence[Wait]:
        """How each choice queued that has come to its queue."""

    def cancel(self, choice: int | None = None) -> None:
        """Stop a choice, or all, within a token or two; a worker's thread ends by itself."""


class Engine(Protocol):
    """A loaded model."""

    spec: ModelSpec
    defaults: Defaults
    device: str
    context_length: int
    modalities: tuple[str, ...]
    fitter: Fitter

    def submit(self, *requests: GenerationRequest) -> Generation:
        """Start a generation; raises InvalidRequest for a prompt that this model cannot take."""

    def tokenize(self, request: GenerationRequest) -> Sequence[int]:
        """The tokens of its prompt; raises InvalidRequest as `submit` does."""

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones too; raises InvalidRequest for ids that are none."""

    def token_bytes(self, token: int) -> bytes:
        """What a token stands for in the text's UTF-8."""

    def busy(self) -> tuple[int, int]:
        """How many generations run and how many wait for their turn."""

    def memory_bytes(self) -> int:
        """Bytes that the model's weights take on its device; on a TPU its caches and buffers too."""

    def stats(self) -> EngineStats:
        """Its numbers now; asked from any thread, while it computes."""

    def fault(self) -> str | None:
        """Why it cannot compute just now, though it is loaded; None while it can."""

    def is_lost(self) -> bool:
        """Whether only a new process can compute again."""

    def close(self) -> None:
        """Free the model; called when nothing runs on it any more."""
