"""Pictures that were seen before: the vision tower's features, by what the picture is."""

import hashlib
import logging
from collections import OrderedDict
from typing import Any

import torch

log = logging.getLogger(__name__)

BUDGET = 256 * 2**20
"""Bytes of features that are kept, least recently used first to go."""


class Features:
    """Stands before a model's `get_image_features` and calls it only for pictures that it does not know."""

    def __init__(self, compute: Any, budget: int = BUDGET) -> None:
        self._compute = compute
        self._budget = budget
        self._known: OrderedDict[bytes, tuple[torch.Tensor, ...]] = OrderedDict()  # pooled, then deepstack
        self._held = 0
        self._kind: Any = None
        self.hits = self.misses = 0

    def __call__(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **options: Any) -> Any:
        """As the model's method: features of the pictures with these pixels (patches, width) and grids."""
        pieces = pixel_values.split(image_grid_thw.prod(dim=-1).tolist())
        names = [_digest(piece, grid) for piece, grid in zip(pieces, image_grid_thw, strict=True)]
        new = [index for index, name in enumerate(names) if name not in self._known]
        new = list({names[index]: index for index in new}.values())
        self.hits += len(names) - len(new)
        self.misses += len(new)
        fresh: dict[bytes, tuple[torch.Tensor, ...]] = {}
        if new:
            pixels = torch.cat([pieces[index] for index in new])
            output = self._compute(pixels, image_grid_thw[new], **options)
            self._kind = type(output)
            layers = getattr(output, "deepstack_features", None) or []
            for place, index in enumerate(new):
                fresh[names[index]] = (output.pooler_output[place], *(layer[place] for layer in layers))
        found = [fresh.get(name) or self._known[name] for name in names]
        for name, features in zip(names, found, strict=True):
            self._keep(name, features)
        result = self._kind(pooler_output=tuple(features[0] for features in found))
        if len(found[0]) > 1:
            result.deepstack_features = list(zip(*(features[1:] for features in found), strict=True))
        return result

    def _keep(self, name: bytes, features: tuple[torch.Tensor, ...]) -> None:
        if name not in self._known:
            self._known[name] = tuple(tensor.clone() for tensor in features)
            self._held += _size(features)
        self._known.move_to_end(name)
        while self._held > self._budget and len(self._known) > 1:
            self._held -= _size(self._known.popitem(last=False)[1])


def _digest(pixels: torch.Tensor, grid: torch.Tensor) -> bytes:
    name = hashlib.blake2b(repr(grid.tolist()).encode(), digest_size=16)
    name.update(pixels.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return name.digest()


def _size(features: tuple[torch.Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in features)
