"""The decoder inside of a transformers model, run over one flat row of many sequences' tokens.

All supported families have the same layers: pre-norm attention with rotary positions and grouped heads, then
a gated MLP (Touvron et al. 2023). Qwen3 normalises queries and keys, Qwen2 adds biases. Weights and rotary
positions are the model's own modules. What is written here is the layer, because transformers' modules take
longer to be called than a short step takes to compute (docs/performance.md).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from app.engine.attention import Rows, Span, Step
from app.engine.cache import KVCache
from app.engine.cuda import StepGraphs, record_cuda
from app.engine.embedding import Embedder, Prompt, joined
from app.engine.linear import JointLinear, input_dtype, rounds
from app.engine.streamed import streamed

if TYPE_CHECKING:
    from app.engine.few_rows import FewRows

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}
"""How far logits may be from the model's own when it is tried: root mean square, relative to their spread."""
ROUNDED = 0.15
"""The same where products round to int8, which makes the least difference a large one."""


@dataclass(frozen=True)
class Chunk:
    """A part of a prompt that is computed in a step: its sequence's extent of the cache begins at `start`,
    `done` tokens of it are there already.
    """

    start: int
    done: int
    prompt: Prompt


class Layer:
    """A decoder layer: the weights of transformers' module, with a lean forward."""

    def __init__(self, module: Any) -> None:
        attention, mlp = module.self_attn, module.mlp
        self.before, self.between = Norm(module.input_layernorm), Norm(module.post_attention_layernorm)
        self.qkv, (queries, keys, _) = _joint(attention.q_proj)
        self.out = attention.o_proj
        self.gate_up, _ = _joint(mlp.gate_proj)
        self.activation, self.down = mlp.act_fn, mlp.down_proj
        self.size = int(attention.head_dim)
        self.heads, self.kv_heads = queries // self.size, keys // self.size
        self.head_norm: Norm | None = None
        if hasattr(attention, "q_norm"):
            self.head_norm = Norm(attention.q_norm, attention.k_norm, (self.heads, self.kv_heads))

    def takes(self, tokens: int) -> torch.dtype:
        """The number format in which hidden states of so many tokens pass through without conversions."""
        return input_dtype(self.qkv, tokens)

    def forward(
        self,
        hidden: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        step: Step,
        store: torch.Tensor,
    ) -> torch.Tensor:
        """Hidden states (tokens, width) after this layer; writes their keys and values into its `store`."""
        row = self.qkv(self.before(hidden)).view(len(hidden), -1, self.size)
        turning = row[:, : self.heads + self.kv_heads]
        if self.head_norm is not None:
            turning = self.head_norm(turning)
        turned = rotate(turning, *rotation)
        new = torch.cat([turned[:, self.heads :], row[:, self.heads + self.kv_heads :]], dim=1)
        hidden = hidden + self.out(step.attend(turned[:, : self.heads], new, store))
        gate, up = self.gate_up(self.between(hidden)).chunk(2, dim=-1)
        mixed: torch.Tensor = hidden + self.down(self.activation(gate) * up)
        return mixed


class Norm:
    """Root mean square norm (Zhang and Sennrich 2019) with a module's weight; or with those of two modules,
    the first for some heads and the second for the others, over (tokens, heads, size).
    """

    def __init__(self, first: Any, second: Any = None, heads: tuple[int, int] = (1, 1)) -> None:
        self._shape, self.epsilon = first.weight.shape, float(first.variance_epsilon)
        # In float32, as the models have it. A GPU's kernel does that by itself; so does that for a CPU, but
        # it takes several times as long.
        self._wide = torch.float32 if first.weight.device.type == "cpu" else first.weight.dtype
        self.weight: torch.Tensor | None = first.weight.to(self._wide)
        self.each: torch.Tensor | None = None
        if second is not None:
            weights = (first.weight.expand(heads[0], -1), second.weight.expand(heads[1], -1))
            self.weight, self.each = None, torch.cat(weights).to(self._wide)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        normed = functional.rms_norm(values.to(self._wide), self._shape, self.weight, self.epsilon)
        return (normed if self.each is None else normed * self.each).to(values.dtype)


def rotate(values: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) in the halves form: values (tokens, heads, size), cosine and sine
    (tokens, 1, size), the first half of the sine negated.
    """
    return torch.addcmul(values * cosine, values.roll(values.shape[-1] // 2, -1), sine)


class Decoder:
    """The language model of a transformers model whose linear layers were prepared. One thread at a time may
    use it.

    Raises ValueError, with a reason for the log, for a model that cannot be run this way.
    """

    def __init__(self, model: Any) -> None:
        # Remote code in InternVL's manner holds a whole causal model and calls its generate().
        inner: Any = getattr(model, "language_model", None)
        host: Any = inner if hasattr(inner, "generate") and hasattr(inner, "lm_head") else model
        self.embeds_by_itself = host is not model
        self._module: Any = host.get_decoder()
        self._head: Any = host.get_output_embeddings()
        config = self._module.config
        kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ValueError(f"it has layers with a state of another kind: {', '.join(sorted(kinds))}")
        if not hasattr(config, "layer_types") and getattr(config, "sliding_window", None):
            raise ValueError("its attention has a sliding window")
        rope = getattr(config, "rope_parameters", None) or {}
        if rope.get("rope_type") in ("dynamic", "longrope"):
            raise ValueError("its rotary positions depend on the length of the sequence")
        try:
            self._layers = [Layer(layer) for layer in self._module.layers]
            self._norm = Norm(self._module.norm)
            self.embedder = Embedder(host, self._module)
        except AttributeError as missing:
            raise ValueError(f"its layers are not of the usual make: {missing}") from None
        self._faster: StepGraphs | FewRows | None = None
        self._try()
        if self.embedder.device.type == "cuda":
            self._faster = StepGraphs(self.decode, record_cuda)
        elif streamed(self._layers[0].qkv) is not None:
            self._try_few_rows()

    def token_bytes(self) -> int:
        """Bytes of KV cache that a token takes."""
        first = self._layers[0]
        return 2 * len(self._layers) * first.kv_heads * first.size * self.embedder.dtype.itemsize

    def cache(self, tokens: int) -> KVCache:
        """A KV cache for so many tokens."""
        first = self._layers[0]
        return KVCache(
            len(self._layers),
            2 * first.kv_heads,
            first.size,
            tokens=tokens,
            dtype=self.embedder.dtype,
            device=self.embedder.device,
        )

    def forward(
        self, rows: Rows, next_tokens: Prompt, chunks: Sequence[Chunk], ending: int, cache: KVCache
    ) -> torch.Tensor:
        """Compute a step; returns the logits (rows + ending, vocabulary) after each row's token and after the
        first `ending` chunks.
        """
        device = self.embedder.device
        if not chunks and self._faster is not None:
            found = self._faster.forward(rows, next_tokens, cache)
            if found is not None:
                return found
        lengths = [len(chunk.prompt) for chunk in chunks]
        spans = [Span(chunk.start, chunk.done, len(chunk.prompt)) for chunk in chunks]
        whole = joined([next_tokens, *(chunk.prompt for chunk in chunks)])
        step = Step.of(rows, spans, self.embedder.dtype, device)
        hidden = self._run(whole, step, cache)
        if chunks:
            ends = torch.tensor([len(rows), *lengths]).cumsum(0)[1 : ending + 1] - 1
            hidden = hidden[torch.cat([torch.arange(len(rows)), ends]).to(device)]
        return self._logits(hidden)

    def decode(self, next_tokens: Prompt, step: Step, cache: KVCache) -> torch.Tensor:
        """Logits (rows, vocabulary) of a step without prompts, whose tensors may be used again (cuda.py)."""
        return self._logits(self._run(next_tokens, step, cache))

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._head(self._norm(hidden))
        return logits

    def _run(self, prompt: Prompt, step: Step, cache: KVCache) -> torch.Tensor:
        """Hidden states (tokens, width) after the last layer."""
        hidden, places = prompt.embeds, prompt.positions
        rotation = self._rotation(hidden, places)
        hidden = hidden.to(self._layers[0].takes(len(hidden)))
        rotation = rotation[0][:, None].to(hidden), rotation[1][:, None].to(hidden)
        for index, layer in enumerate(self._layers):
            hidden = layer.forward(hidden, rotation, step, cache.store[index])
            if index < len(prompt.deepstack):
                hidden[prompt.visual] += prompt.deepstack[index]
        return hidden

    def _rotation(self, hidden: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine (tokens, head size) of positions, as `rotate` takes them."""
        cosine, sine = self._module.rotary_emb(hidden, places[:, None] if len(places) > 1 else places)
        half = sine.shape[-1] // 2
        return cosine[0], torch.cat([-sine[0, :, :half], sine[0, :, half:]], dim=-1)

    def _try_few_rows(self) -> None:
        """Compute the steps of a few rows in one kernel, if that gives what the model gives."""
        from app.engine.few_rows import FewRows  # numba, which is not everywhere

        try:
            self._faster = FewRows(self._layers, self._norm, self._head, self._rotation)
            self._try()
        except ValueError as reason:
            self._faster = None
            log.info("steps of a few rows are computed as others: %s", reason)

    @torch.inference_mode()
    def _try(self) -> None:
        """Compare a few tokens with the model's own forward, whole and in pieces."""
        some = self.embedder
        ids = [7 * place % some.vocabulary for place in range(12)]
        whole = some.tokens(ids, range(12))
        own = self._module(inputs_embeds=whole.embeds[None], use_cache=False)[0][0, -1:]
        wanted = self._head(own).float()
        try:
            cache = self.cache(40)
            none = some.tokens([], [])
            self.forward([], none, [Chunk(3, 0, whole.part(0, 5)), Chunk(20, 0, whole.part(0, 11))], 1, cache)
            self.forward([], none, [Chunk(3, 5, whole.part(5, 11))], 1, cache)
            last = some.tokens([ids[11]] * 2, [11, 11])
            found = self.forward([(3, 11), (20, 11)], last, [], 0, cache).float()
            error = float((found - wanted).square().mean().sqrt() / wanted.std())
        except Exception as problem:
            raise ValueError(
                f"its decoder fails when it is called so ({type(problem).__name__})"
            ) from problem
        if not error < max(TOLERANCE[some.dtype], ROUNDED if rounds(self._module) else 0.0):
            raise ValueError(f"its decoder gives other logits when it is called so (by {error:.2g})")


def _joint(layer: Any) -> tuple[Any, list[int]]:
    if not isinstance(layer, JointLinear):
        raise AttributeError("its projections cannot be joined")
    return layer.product, layer.sizes
