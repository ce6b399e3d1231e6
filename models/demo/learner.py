"""One training step: the loss of a packed batch, the two optimizers, the learning rate, the averaged
weights.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from models.demo import hints, packed
from models.demo.batches import Batch

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration

WARMUP_STEPS = 100
TOWER_RATE = 4e-3  # of Muon, for the vision tower
MUON_RATE = 2e-3  # of Muon, for the language model
ADAM_RATE = 1e-3
PATCH_RATE = 5e-4  # neighbouring pixels are alike: their weights' steps add up
WEIGHT_DECAY = 0.02
HINT_WEIGHT = 2.0
DECAY_SHARE = 0.3  # of the steps, at the end, in which the learning rates go down to zero
AVERAGE_DECAY = 0.996
CLIP_NORM = 1.0


def best_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies matrices in it, float32 elsewhere."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16() else torch.float32


def _has_bf16() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in capability


def loss_of(
    model: "Qwen3VLForConditionalGeneration",
    batch: Batch,
    dtype: torch.dtype,
    probe: hints.Probe | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropy (nats) of the answers' tokens, and that of the hints."""
    packed.use(batch.lengths, batch.frames)
    inner: Any = model.model
    hinted = torch.zeros(())
    deep: list[torch.Tensor] | None = None
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        if len(batch.patches):
            pixels = batch.patches.float() / 127.5 - 1.0
            whole = torch.tensor([0, len(pixels)], dtype=torch.int32)
            seen = inner.visual(pixels, grid_thw=batch.grids, cu_seqlens=whole)
            if probe is not None:
                hinted = probe(seen.deepstack_features[0], seen.pooler_output, batch.hints)
            if not batch.lengths:
                return torch.zeros(()), hinted
        embedded = inner.language_model.embed_tokens(batch.tokens)[None]
        if len(batch.patches):
            features = seen.pooler_output.to(embedded.dtype)
            embedded = embedded.masked_scatter(batch.visual[None, :, None], features)
            deep = [feature.to(embedded.dtype) for feature in seen.deepstack_features]
        hidden = inner.language_model(
            inputs_embeds=embedded,
            position_ids=batch.positions[:, None],
            visual_pos_masks=batch.visual[None] if deep is not None else None,
            deepstack_visual_embeds=deep,
            use_cache=False,
        )[0][0]
        targets = batch.answer.nonzero()[:, 0]
        logits = model.lm_head(hidden[targets - 1])
    return functional.cross_entropy(logits.float(), batch.tokens[targets], reduction="sum"), hinted


class Team:
    """Threads that each compute on one core: a step's parts are shared out among them as they get free.

    On a machine that others use as well this is far faster than splitting every single product among the
    cores, which waits for the slower core thousands of times in a step.
    """

    def __init__(
        self, model: "Qwen3VLForConditionalGeneration", probe: hints.Probe, threads: int, dtype: torch.dtype
    ) -> None:
        torch.set_num_threads(1)
        self._model, self._probe, self._dtype = model, probe, dtype
        self._parameters = [*model.parameters(), *probe.parameters()]
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        self._lock = threading.Lock()

    def gradients(self, parts: list[Batch], hint_weight: float) -> tuple[float, float]:
        """Set the parameters' gradients for the mean losses of a step's parts; returns those of answers and
        hints.
        """
        answers = max(1, sum(int(part.answer.sum()) for part in parts))
        mass = sum(hints.mass(part.hints) for part in parts)
        losses = self.each(lambda part: self._one(part, 1 / answers, 1 / mass, hint_weight), parts)
        return sum(loss for loss, _ in losses), sum(hinted for _, hinted in losses)

    def each(self, work: Callable[[Any], Any], parts: list[Any]) -> list[Any]:
        """Do some work on all parts, as many at a time as there are threads."""
        return list(self._pool.map(work, parts))

    def _one(self, part: Batch, share: float, hint_share: float, hint_weight: float) -> tuple[float, float]:
        loss, hinted = loss_of(self._model, part, self._dtype, self._probe)
        loss, hinted = loss * share, hinted * hint_share
        gradients = torch.autograd.grad(loss + hint_weight * hinted, self._parameters, allow_unused=True)
        with self._lock, torch.no_grad():
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return float(loss.detach()), float(hinted.detach())


class Optimizers:
    """Muon for the matrices of the blocks and mergers, AdamW for all else; warm-up, then down to zero."""

    def __init__(self, model: torch.nn.Module, probe: hints.Probe, steps: int) -> None:
        matrices: list[torch.nn.Parameter] = []
        tower: list[torch.nn.Parameter] = []
        others, pixels = list(probe.parameters()), []
        for name, parameter in model.named_parameters():
            if name.endswith("patch_embed.proj.weight"):
                pixels.append(parameter)
            elif parameter.ndim == 2 and "embed" not in name:
                (tower if ".visual." in name else matrices).append(parameter)
            else:
                others.append(parameter)
        for some in (tower, matrices):
            some.sort(key=lambda matrix: -matrix.numel())
        self._steps = steps
        adam = torch.optim.AdamW(
            [{"params": others, "lr": ADAM_RATE}, {"params": pixels, "lr": PATCH_RATE}],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            fused=True,
        )
        self._all: list[torch.optim.Optimizer] = [
            *(
                torch.optim.Muon(some, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
                for every, rate in ((tower, TOWER_RATE), (matrices, MUON_RATE))
                for some in (every[0::2], every[1::2])
            ),
            adam,
        ]
        self._rates = [float(group["lr"]) for group in self._groups()]
        self._parameters = [*tower, *matrices, *others, *pixels]

    def rate(self, step: int) -> float:
        """The factor of the learning rates at a step: linear warm-up, flat, then linearly to nearly zero."""
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        progress = min(1.0, step / self._steps)
        return warm * min(1.0, 0.01 + (1 - progress) / DECAY_SHARE)

    def hint_weight(self, step: int) -> float:
        """The weight of the hints' loss: less and less towards the end."""
        return HINT_WEIGHT * max(0.2, 1 - step / self._steps)

    def step(self, step: int, team: Team) -> float:
        """Apply the gradients; returns their norm before clipping."""
        factor = self.rate(step)
        for group, rate in zip(self._groups(), self._rates, strict=True):
            group["lr"] = rate * factor
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        team.each(lambda optimizer: optimizer.step(), self._all)
        for parameter in self._parameters:
            parameter.grad = None
        return float(norm)

    def state_dict(self) -> list[dict[str, Any]]:
        """All optimizers' states."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore all optimizers' states."""
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._all for group in optimizer.param_groups]


class Average:
    """An exponential moving average of the weights, which is what is exported."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self.weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights; faster at the start."""
        decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
        names, tensors = zip(*self._model.named_parameters(), strict=True)
        averages = [self.weights[name] for name in names]
        torch._foreach_lerp_(averages, list(tensors), 1 - decay)
