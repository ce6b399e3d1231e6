"""Linear layers after `prepare`: the same results as before, whatever form they take."""

import threading
from typing import Any

import pytest

from tests import tiny_models  # prepares torchvision

# isort: split
import torch
from torch import nn

from app.engine import linear

assert tiny_models


class Block(nn.Module):
    """Layers of one input that are called as transformers' modules do."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(64, 64, bias), nn.Linear(64, 32, bias)
        self.v_proj, self.o_proj = nn.Linear(64, 32, bias), nn.Linear(64, 64)
        self.gate_proj, self.up_proj = nn.Linear(64, 128, bias=False), nn.Linear(64, 128, bias=False)
        self.down_proj = nn.Linear(128, 64, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        parts = [self.q_proj(inputs), self.k_proj(inputs), self.v_proj(inputs)]
        mixed = self.o_proj(torch.cat(parts[1:], dim=-1) + parts[0])
        return torch.as_tensor(self.down_proj(torch.sigmoid(self.gate_proj(mixed)) * self.up_proj(mixed)))


def block(dtype: torch.dtype, bias: bool = True) -> Block:
    torch.manual_seed(0)
    return Block(bias).to(dtype).eval()


@torch.inference_mode()
def distance(one: nn.Module, other: nn.Module, dtype: torch.dtype, rows: int = 5) -> float:
    """How far two modules' outputs are from each other, relative to their spread."""
    inputs = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1))
    wanted = one.double()(inputs.double())
    return float((other(inputs.to(dtype)).double() - wanted).abs().max() / wanted.std())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("stored", "dtype", "quantization", "tolerance"),
    [
        (torch.float32, torch.float32, "none", 1e-5),
        (torch.bfloat16, torch.bfloat16, "none", 0.06),
        (torch.bfloat16, torch.float32, "none", 1e-3),
        (torch.float16, torch.float32, "none", 1e-3),
        (torch.float32, torch.float32, "int8", 0.15),
        (torch.bfloat16, torch.bfloat16, "int8", 0.18),
    ],
)
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_a_prepared_module_computes_the_same(
    stored: torch.dtype, dtype: torch.dtype, quantization: str, tolerance: float, bias: bool, rows: int
) -> None:
    prepared = block(stored, bias)
    linear.prepare(prepared, dtype, quantization)
    assert distance(block(stored, bias), prepared, dtype, rows) < tolerance


def test_layers_of_one_input_are_one_product() -> None:
    prepared = block(torch.float32)
    linear.prepare(prepared, torch.float32)
    q, v, gate, up = (getattr(prepared, name) for name in ("q_proj", "v_proj", "gate_proj", "up_proj"))
    assert q.product is v.product
    assert gate.product is up.product
    assert q.sizes == [64, 32, 32]


def test_layers_that_differ_in_their_bias_stay_apart() -> None:
    odd = block(torch.float32)
    odd.k_proj = nn.Linear(64, 32, bias=False)
    linear.prepare(odd, torch.float32)
    assert not isinstance(odd.q_proj, linear.JointLinear)


def test_threads_do_not_see_each_others_parts() -> None:
    prepared = block(torch.float32)
    linear.prepare(prepared, torch.float32)
    inputs = [torch.randn(3, 64) for _ in range(8)]
    with torch.inference_mode():
        wanted = [prepared(some) for some in inputs]
    wrong: list[int] = []

    def run(index: int) -> None:
        with torch.inference_mode():
            for _ in range(50):
                if not torch.allclose(prepared(inputs[index]), wanted[index], atol=1e-5):
                    wrong.append(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("free", [10**12, 0])
def test_what_int8_makes_of_a_token_depends_on_no_other_one(
    monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr(linear, "free_memory", lambda: free)
    prepared = block(torch.float32)
    linear.prepare(prepared, torch.float32, "int8")
    inputs = torch.randn(6, 64) * torch.tensor([1e-3, 1, 1, 50, 1, 1])[:, None]
    with torch.inference_mode():
        together = prepared(inputs)
        pairs = torch.cat([prepared(inputs[row : row + 2]) for row in range(0, 6, 2)])
        alone = torch.cat([prepared(row[None]) for row in inputs])
    if free:  # the second form of the weights is for a few tokens, which it does not round
        assert torch.equal(pairs, alone)
        assert ((alone - together).norm(dim=1) / together.norm(dim=1)).max() < 0.1  # 7 bits without VNNI
    else:
        assert torch.equal(together, pairs)
        assert torch.equal(together, alone)


def test_a_vision_tower_keeps_its_precision() -> None:
    model = nn.ModuleDict({"visual": block(torch.float32), "layers": block(torch.float32)})
    linear.prepare(model, torch.float32, "int8")
    assert isinstance(model["visual"].down_proj, linear.PackedLinear)
    assert isinstance(model["layers"].down_proj, linear.Int8Linear)


def test_a_convolution_of_whole_patches_is_a_product() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = nn.Conv3d(3, 20, (2, 4, 4), (2, 4, 4), bias=True)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.proj(inputs).view(-1, 20))

    patches = Patches()
    inputs = torch.randn(7, 3, 2, 4, 4)
    with torch.inference_mode():
        wanted = patches(inputs)
        linear.prepare(patches, torch.float32)
        assert torch.allclose(patches(inputs), wanted, atol=1e-5)
    assert not isinstance(patches.proj, nn.Conv3d)


@pytest.mark.parametrize(("free", "copies"), [(10**12, 2), (0, 1)])
def test_packed_weights_are_counted_and_doubled_where_there_is_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, copies: int
) -> None:
    monkeypatch.setattr(linear, "free_memory", lambda: free)
    prepared = block(torch.bfloat16)
    before = sum(weight.numel() * weight.element_size() for weight in prepared.parameters())
    linear.prepare(prepared, torch.bfloat16)
    after = sum(weight.numel() * weight.element_size() for weight in prepared.parameters())
    if not linear.multiplies_bfloat16():
        copies = 1
    assert after + linear.packed_bytes(prepared) == pytest.approx(copies * before, rel=0.1)


def test_without_the_operator_layers_stay_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(linear.PackedLinear, "forward", missing)
    monkeypatch.setattr(linear.HalfLinear, "forward", missing)
    for dtype in (torch.bfloat16, torch.float32):
        prepared = block(torch.bfloat16)
        linear.prepare(prepared, dtype)
        assert isinstance(prepared.o_proj, nn.Linear)
        assert distance(block(torch.bfloat16), prepared, dtype) < 0.06


def test_int8_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(linear.Int8Linear, "forward", missing)
    with pytest.raises(ValueError, match="int8"):
        linear.prepare(block(torch.float32), torch.float32, "int8")
