"""Attention of rows where their keys and values are: what torch's attention gives over gathered rows."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from app.engine import attention, row_attention, step_kernel
from app.engine.attention import Rows, Step
from app.engine.row_attention import InPlace, in_place

CPU = torch.device("cpu")
LONGEST = 700
pytestmark = pytest.mark.timeout(600)  # numba compiles, once on a machine


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    in_place.cache_clear()


def mixed(rows: Rows, dtype: torch.dtype, heads: int, kv_heads: int, size: int) -> tuple[Any, Any]:
    """What a step gives and has written, of the same random numbers each time."""
    torch.manual_seed(0)
    store = torch.randn((len(rows) * LONGEST, 2 * kv_heads, size)).to(dtype)
    query, new = torch.randn((len(rows), heads, size)), torch.randn((len(rows), 2 * kv_heads, size))
    return Step.of(rows, [], dtype, CPU).attend(query.to(dtype), new.to(dtype), store), store


@pytest.mark.parametrize("threads_there", [1, 2, 5])
@pytest.mark.parametrize("shape", [(14, 2, 64), (8, 8, 16), (16, 4, 128), (3, 1, 80)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_rows_of_any_lengths_see_their_own_tokens(
    dtype: torch.dtype,
    tolerance: float,
    shape: tuple[int, int, int],
    threads_there: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.set_num_threads(threads_there)
    assert in_place(dtype)
    rng = random.Random(threads_there)
    for count, longest in ((1, LONGEST), (2, 3), (7, 70), (33, 300)):
        lengths = sorted(rng.randrange(longest) for _ in range(count))
        rows = [(row * LONGEST, length) for row, length in enumerate(lengths)]
        found, store = mixed(rows, dtype, *shape)
        with monkeypatch.context() as without:
            without.setattr(attention, "in_place", lambda dtype: False)
            wanted, other = mixed(rows, dtype, *shape)
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
        assert torch.equal(store, other)


def test_rows_beside_a_prompts_part_come_first() -> None:
    store = torch.randn((40, 2, 8))
    step = Step.of([(0, 3)], [attention.Span(10, 0, 2)], torch.float32, CPU)
    new = torch.randn((3, 2, 8))
    found = step.attend(torch.zeros((3, 1, 8)), new, store)
    torch.testing.assert_close(found[0], store[:4, 1].mean(dim=0))
    torch.testing.assert_close(found[1], new[1, 1])
    torch.testing.assert_close(found[2], new[1:, 1].mean(dim=0))


@pytest.mark.parametrize("fault", [ImportError("No module named 'numba'"), OSError("no libgomp")])
def test_without_what_the_kernel_needs_rows_are_gathered(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(dtype: torch.dtype) -> Any:
        raise fault

    in_place.cache_clear()
    monkeypatch.setattr(step_kernel, "attention", fails)
    with caplog.at_level("INFO"):
        found, _ = mixed([(0, 5), (LONGEST, 9)], torch.float32, 4, 2, 16)
    assert found.shape == (2, 64)
    assert str(fault) in caplog.text


def test_a_format_that_the_kernel_does_not_know_is_left_to_torch() -> None:
    assert not in_place(torch.float16)
    assert mixed([(0, 5)], torch.float16, 4, 2, 16)[0].dtype == torch.float16


def test_a_kernel_that_gives_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    in_place.cache_clear()
    monkeypatch.setattr(InPlace, "attend", lambda *_: torch.zeros((2, 8)))
    assert not row_attention.in_place(torch.float32)
