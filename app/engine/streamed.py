"""Linear layers for a few tokens on a CPU: what takes time then is reading the weights (kernels.py)."""

import logging
from functools import cache

import torch
from torch import nn

log = logging.getLogger(__name__)

FEW = 3
"""Up to so many tokens are multiplied faster by weights in this form."""


class Packed(nn.Module):
    """A layer that has packed its weight away; what is left of it tells its number format."""

    bytes: int

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.new_empty(0), persistent=False)


class StreamedLinear(Packed):
    """A linear layer for a few tokens of float32. Its weight, in bfloat16, or in int8 with a scale for each
    output, lies in the order in which it is read.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, scales: torch.Tensor | None = None
    ) -> None:
        from app.engine import kernels, step_kernel  # numba: it takes a while, and is not everywhere

        super().__init__(weight)
        self._kernel, self.kind = step_kernel, weight.dtype
        self.outputs, self.inputs = weight.shape
        self._weight = kernels.pack(weight)
        self._scales = scales
        self._bias = None if bias is None else bias.float().contiguous()
        self.bytes = self._weight.nbytes

    def addresses(self) -> list[int]:
        """Those of weight, scales and bias, 0 for what there is none of."""
        return [0 if one is None else one.data_ptr() for one in (self._weight, self._scales, self._bias)]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(…, in features) to (…, out features)."""
        rows = inputs.float().reshape(-1, self.inputs).contiguous()
        product = torch.empty((len(rows), self.outputs))
        self._kernel.run(
            self._kernel.linear(self.kind),
            [len(rows), self.inputs, self.outputs, *self.addresses(), rows.data_ptr(), product.data_ptr()],
        )
        return product.view(*inputs.shape[:-1], self.outputs).to(inputs.dtype)


def streamed(product: nn.Module) -> StreamedLinear | None:
    """The form of a product for a few tokens, if it has one."""
    found: StreamedLinear | None = getattr(product, "few", None)
    return found


@cache
def can_stream(kind: torch.dtype) -> bool:
    """Whether weights of this format can be streamed here."""
    try:
        ones = torch.ones(1) if kind == torch.int8 else None
        layer = StreamedLinear(torch.ones((1, 2), dtype=kind), None, ones)
        return float(layer(torch.tensor([[1.0, 2.0]]))) == 3.0
    except Exception as error:  # no numba, another OpenMP, a processor that numba does not know
        log.info("weights are not streamed: %s", error)
        return False
