"""Steps of a few rows in one kernel: the logits, keys and values are those of the decoder's own layers."""

import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
from torch import nn

from app.engine import linear, step_kernel, streamed
from app.engine.attention import Rows
from app.engine.cache import KVCache
from app.engine.decoder import Decoder
from app.engine.few_rows import FewRows
from app.engine.row_attention import in_place

CACHED = 700
pytestmark = pytest.mark.timeout(600)  # numba compiles, once on a machine
FAMILIES = ("qwen2", "qwen3", "llama", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "sail_vl2")


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "free_memory", lambda: 10**12)
    streamed.can_stream.cache_clear()
    in_place.cache_clear()


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def on_the_grid_of_int8(model: nn.Module) -> None:
    """Round weights to what int8 with a scale for each output tells exactly."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                scale = layer.weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
                layer.weight.copy_((layer.weight / scale).round() * scale)


class Pair:
    """A decoder that has the kernel and one of the same weights in float32 that has not, with one cache."""

    def __init__(self, folder: pathlib.Path, quantization: str) -> None:
        with torch.inference_mode():
            models: list[Any] = [tiny_models.load(folder).model.eval() for _ in range(2)]
            dtype = torch.float32 if quantization == "int8" else torch.bfloat16
            for model in models:
                on_the_grid_of_int8(model) if quantization == "int8" else model.bfloat16()
            linear.prepare(models[1].float(), torch.float32)
            # A processor without bfloat16 computes in float32 what is stored in bfloat16.
            linear.prepare(models[0], dtype if linear.multiplies_bfloat16() else torch.float32, quantization)
        self.fast, self.plain = Decoder(models[0]), Decoder(models[1])
        self.cache, self.other = self.fast.cache(CACHED), self.plain.cache(CACHED)
        torch.manual_seed(0)
        self.cache.store.normal_()
        self.other.store.copy_(self.cache.store)
        self.tolerance = 1e-3 if self.cache.store.dtype == torch.float32 else 0.03

    @torch.inference_mode()
    def compare(self, rows: Rows) -> None:
        """Assert that a step is the same."""
        ids, places = [5 + row for row in range(len(rows))], [done for _, done in rows]
        kernel = self.fast._faster
        assert isinstance(kernel, FewRows)
        found = kernel.forward(rows, self.fast.embedder.tokens(ids, places), self.cache)
        assert found is not None
        wanted = self.plain.forward(rows, self.plain.embedder.tokens(ids, places), [], 0, self.other)
        assert float((found - wanted).abs().max() / wanted.std()) < self.tolerance
        kept = self.cache.store[:, :-1].float()
        assert float((kept - self.other.store[:, :-1]).abs().max()) < 10 * self.tolerance
        self.other.store.copy_(self.cache.store)


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_a_few_rows_is_that_of_the_decoder(
    tiny: Callable[[str], pathlib.Path], family: str, quantization: str, threads: int
) -> None:
    pair = Pair(tiny(family), quantization)
    rng = random.Random(threads)
    for count in (1, 2, 3):
        for longest in (0, 5, 64, 230):
            lengths = sorted(rng.randint(0, longest) for _ in range(count))
            pair.compare([(231 * row, length) for row, length in enumerate(lengths)])


@torch.inference_mode()
def test_the_decoder_takes_it_for_steps_of_a_few_rows_alone(tiny: Callable[[str], pathlib.Path]) -> None:
    pair = Pair(tiny("qwen3"), "none")
    kernel = pair.fast._faster
    assert isinstance(kernel, FewRows)
    taken: list[int] = []
    forward = kernel.forward

    def counted(rows: Rows, tokens: Any, cache: KVCache) -> torch.Tensor | None:
        found = forward(rows, tokens, cache)
        taken.extend([len(rows)] if found is not None else [])
        return found

    kernel.forward = counted  # type: ignore[method-assign, assignment]
    for count in (1, streamed.FEW, streamed.FEW + 1):
        rows = [(20 * row, 3) for row in range(count)]
        pair.fast.forward(rows, pair.fast.embedder.tokens([7] * count, [3] * count), [], 0, pair.cache)
    assert taken == [1, streamed.FEW]


def test_layers_of_another_kind_are_computed_as_others(
    tiny: Callable[[str], pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_models.load(tiny("qwen3")).model.eval().bfloat16()
    for layer in model.model.layers:
        layer.mlp.act_fn = nn.Tanh()
    with torch.inference_mode(), caplog.at_level("INFO"):
        linear.prepare(model, torch.bfloat16 if linear.multiplies_bfloat16() else torch.float32)
        assert Decoder(model)._faster is None
    assert "activation is another one" in caplog.text


def test_without_the_openmp_that_torch_uses_weights_have_one_form(
    tiny: Callable[[str], pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> Any:
        raise OSError("this torch has no libgomp")

    monkeypatch.setattr(step_kernel, "run_parallel", none)
    model = tiny_models.load(tiny("qwen3")).model.eval().bfloat16()
    with torch.inference_mode():
        linear.prepare(model, torch.bfloat16 if linear.multiplies_bfloat16() else torch.float32)
    assert streamed.streamed(model.model.layers[0].self_attn.o_proj) is None
    assert Decoder(model)._faster is None
    streamed.can_stream.cache_clear()
    in_place.cache_clear()


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (70, 1), (3, 130), (200, 63)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_streamed_layer_computes_the_product(inputs: int, outputs: int, bias: bool) -> None:
    layer = nn.Linear(inputs, outputs, bias).bfloat16()
    made = streamed.StreamedLinear(layer.weight.detach(), layer.bias.detach() if bias else None)
    tokens = torch.randn(2, 1, inputs)
    with torch.inference_mode():
        torch.testing.assert_close(made(tokens), layer.float()(tokens), atol=1e-4, rtol=1e-4)
