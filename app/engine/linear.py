"""Linear layers in the form that a device multiplies fastest, chosen when a model loads.

On a CPU: oneDNN's packed weights, in bfloat16 where there are instructions for it; FBGEMM's float16, with
float32 activations, where there are none, since bfloat16 gains nothing from a batch there; oneDNN's int8
where that is asked for; beside each of them, if there is memory for both, the weights in the order in which a
few tokens read them (kernels.py); plain layers where this torch lacks an operator. Everywhere: layers of one
input (query, key and value; gate and up) are one product. The figures are in docs/performance.md.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from app.engine.machine import free_memory
from app.engine.streamed import FEW, Packed, StreamedLinear, can_stream

log = logging.getLogger(__name__)

JOINT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers that transformers' modules call one after another, in this order, with the same input."""
TWIN_SHARE = 0.25
"""Weights are kept in two forms if the second one takes at most this share of the free memory."""


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products, and torch is not told to do without them
    (ATEN_CPU_CAPABILITY).
    """
    told = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return told and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class PackedLinear(Packed):
    """A linear layer whose weight oneDNN keeps in its own blocked order."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight)
        self.bytes = weight.numel() * weight.element_size()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self._bias = bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._weight, self._bias, "none", [], ""
        )
        return product


class HalfLinear(Packed):
    """A linear layer with float16 weights and float32 activations, by FBGEMM."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__(weight)
        self.bytes = 2 * weight.numel()
        bias = None if bias is None else bias.float()
        self._weight: Any = torch.ops.quantized.linear_prepack_fp16(weight.float(), bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        product: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, self._weight)
        return product


class TwinLinear(nn.Module):
    """A linear layer in both forms: `many` is the fastest for many tokens, but for a few it reads the weights
    slower than the memory gives them.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, many: Any) -> None:
        super().__init__()
        self.many, self.few = many(weight, bias), StreamedLinear(weight.bfloat16(), bias)

    @property
    def weight(self) -> torch.Tensor:
        """Asked for its number format."""
        return torch.as_tensor(self.many.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        if inputs.numel() <= FEW * inputs.shape[-1]:
            return torch.as_tensor(self.few(inputs))
        taken = inputs if isinstance(self.many, HalfLinear) else inputs.bfloat16()
        return torch.as_tensor(self.many(taken)).to(inputs.dtype)


class Int8Linear(Packed):
    """A linear layer with int8 weights, a scale for each output, and int8 inputs, a scale for each token:
    what a token becomes depends on no other one (Xiao et al. 2023). By oneDNN; with `twice`, a few tokens are
    multiplied as they are by weights that are streamed.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, twice: bool = False) -> None:
        super().__init__(weight)
        self.bytes = weight.numel()
        scales = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127
        rounded = (weight.float() / scales[:, None]).round().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.few: StreamedLinear | None = None
        if twice:
            self.few = StreamedLinear(rounded, bias, scales)
        self._scales, self._zeros = scales, torch.zeros(len(scales), dtype=torch.int32)
        self._bias = None if bias is None else bias.float()
        self._steps, self._zero = (63, 64) if _overflows() else (127, 128)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        if self.few is not None and inputs.numel() <= FEW * inputs.shape[-1]:
            return torch.as_tensor(self.few(inputs))
        scale = inputs.abs().amax(dim=-1, keepdim=True).float().clamp_(min=1e-12).div_(self._steps)
        rounded = (inputs / scale).round_().add_(self._zero).to(torch.uint8)
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, self._zero, self._weight, self._scales, self._zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        product.mul_(scale)
        return (product if self._bias is None else product.add_(self._bias)).to(inputs.dtype)


@cache
def _overflows() -> bool:
    """Whether this CPU's int8 products add two of them in 16 bits (no VNNI): 7 bits of the activation fit."""
    ones, zeros = torch.ones(32), torch.zeros(32, dtype=torch.int32)
    weight = torch.ops.onednn.qlinear_prepack(torch.full((32, 32), 127, dtype=torch.int8), None)
    product = torch.ops.onednn.qlinear_pointwise(
        torch.full((2, 32), 255, dtype=torch.uint8), 1.0, 0, weight, ones, zeros,
        None, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return bool((product != 32 * 127 * 255).any())


class PatchProduct(nn.Module):
    """A convolution whose stride is its kernel: a product for each patch."""

    def __init__(self, product: nn.Module) -> None:
        super().__init__()
        self.product = product

    @property
    def weight(self) -> torch.Tensor:
        """That of the product, whose number format is asked for."""
        return torch.as_tensor(self.product.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(patches, channels, time, height, width) to (patches, out channels, 1, 1, 1)."""
        found: torch.Tensor = self.product(inputs.flatten(1))
        return found[:, :, None, None, None]


class JointLinear(nn.Module):
    """One of several layers that are computed in one product: the first one called computes it, the last one
    lets go of it.
    """

    def __init__(self, product: nn.Module, sizes: list[int], index: int, shared: threading.local) -> None:
        super().__init__()
        self.product, self.sizes = product, sizes
        self._index, self._shared = index, shared

    @property
    def weight(self) -> torch.Tensor:
        """That of the product, whose number format is asked for."""
        return torch.as_tensor(self.product.weight)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        shared = self._shared
        if getattr(shared, "input", None) is not inputs:
            shared.parts = self.product(inputs).split(self.sizes, dim=-1)
            shared.input = inputs
        part: torch.Tensor = shared.parts[self._index]
        if self._index == len(self.sizes) - 1:
            shared.input = shared.parts = None
        return part


@torch.inference_mode()
def prepare(model: nn.Module, dtype: torch.dtype, quantization: str = "none") -> None:
    """Make a model compute in a number format; its weights may be stored in another one. Quantization is that
    of the language model, a vision tower keeps its precision.

    Raises ValueError where the quantization is not possible.
    """
    stored = next(model.parameters())
    precise = coarse = _kind(stored, dtype)
    if quantization == "int8":
        _check_int8(stored)
        coarse = partial(Int8Linear, twice=_has_room(model, 1) and can_stream(torch.int8))
    elif precise is not _plain and torch.bfloat16 in (stored.dtype, dtype) and _has_room(model, 2):
        coarse = partial(TwinLinear, many=precise) if can_stream(torch.bfloat16) else precise
    for path, parent in list(model.named_modules()):
        kind = precise if "vis" in path else coarse
        _flatten_patches(parent, kind)
        for names in _groups(parent):
            layers: list[Any] = [getattr(parent, name) for name in names]
            if len(names) == 1 and kind is _plain:
                continue
            product = kind(*_joined(layers))
            if len(names) == 1:
                setattr(parent, names[0], product)
                continue
            sizes, shared = [layer.out_features for layer in layers], threading.local()
            for index, name in enumerate(names):
                setattr(parent, name, JointLinear(product, sizes, index, shared))
    model.to(dtype)


def input_dtype(product: nn.Module, tokens: int) -> torch.dtype:
    """The number format in which a product takes so many tokens without converting them."""
    if isinstance(product, TwinLinear):
        return torch.float32 if tokens <= FEW else input_dtype(product.many, tokens)
    if isinstance(product, HalfLinear | Int8Linear):
        return torch.float32
    return torch.as_tensor(product.weight).dtype


def rounds(model: nn.Module) -> bool:
    """Whether products of its round what they multiply, to int8."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the weights that are no parameters any more."""
    return sum(layer.bytes for layer in model.modules() if isinstance(layer, Packed))


def _plain(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def _kind(stored: torch.Tensor, dtype: torch.dtype) -> Any:
    """What to make of weights like this one, that are to be computed with in `dtype`."""
    if stored.device.type != "cpu" or dtype == torch.float16:
        return _plain
    kind = PackedLinear if dtype in (stored.dtype, torch.bfloat16) else HalfLinear
    try:
        kind(torch.zeros((64, 64), dtype=stored.dtype), None)(torch.zeros((1, 2, 64), dtype=dtype))
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        # How torch says that this build lacks the operator, or that the operator lacks this CPU.
        log.info("linear layers stay as they are: %s", error)
        return _plain
    return kind


def _has_room(model: nn.Module, itemsize: int) -> bool:
    size = sum(weight.numel() * itemsize for weight in model.parameters())
    return size < TWIN_SHARE * free_memory()


def _check_int8(stored: torch.Tensor) -> None:
    """Raise ValueError unless int8 products are there and right."""
    if stored.device.type != "cpu":
        raise ValueError(f"int8 is for the CPU, and this model is on {stored.device}")
    example = torch.eye(64)
    try:
        found = Int8Linear(example, None)(example)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        # The same; but int8 was asked for by name, so that other layers would be no answer.
        raise ValueError(f"this CPU or this torch has no int8 product: {error}") from None
    if not torch.allclose(found, example, atol=0.02):
        raise ValueError("the int8 product of this CPU is wrong")


def _flatten_patches(parent: nn.Module, kind: Any) -> None:
    for name, layer in list(parent.named_children()):
        if type(layer) is nn.Conv3d and layer.stride == layer.kernel_size and layer.groups == 1:
            weight, bias = layer.weight.detach().flatten(1), layer.bias
            setattr(parent, name, PatchProduct(kind(weight, None if bias is None else bias.detach())))


def _groups(parent: nn.Module) -> Iterator[tuple[str, ...]]:
    """The names of a module's linear layers, those that share their input together."""
    linear = {name: layer for name, layer in parent.named_children() if type(layer) is nn.Linear}
    for names in JOINT:
        some = [linear[name] for name in names if name in linear]
        alike = {(layer.in_features, layer.bias is None) for layer in some}
        if len(some) == len(names) and len(alike) == 1:
            yield names
            for name in names:
                del linear[name]
    for name in linear:
        yield (name,)


def _joined(layers: Sequence[nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [layer.bias.detach() for layer in layers if layer.bias is not None]
    return weight, torch.cat(biases) if biases else None
