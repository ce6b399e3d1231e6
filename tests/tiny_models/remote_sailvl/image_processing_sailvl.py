"""Image processor of a tiny SAIL-VL2: a picture becomes square tiles and a thumbnail."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor


def choose_grid(width: int, height: int, most: int) -> tuple[int, int]:
    """Find the columns and rows, at most `most` tiles in all, whose shape comes closest to the picture's."""
    grids = [(columns, tiles // columns) for tiles in range(1, most + 1) for columns in range(1, tiles + 1)]
    return min(grids, key=lambda grid: (abs(grid[0] / grid[1] - width / height), grid[0] * grid[1]))


class SAILVLImageProcessor(BaseImageProcessor):
    """Cuts pictures into tiles."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers reads it as a plain class attribute)

    def __init__(
        self,
        patch_size: int = 14,
        image_size: int = 56,
        max_dynamic_patch: int = 6,
        image_mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_std: Sequence[float] = (0.229, 0.224, 0.225),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.image_size = image_size
        self.max_dynamic_patch = max_dynamic_patch
        self.image_mean = image_mean
        self.image_std = image_std

    def tiles(self, image: Image.Image) -> list[Image.Image]:
        """Cut one picture."""
        side = self.image_size
        columns, rows = choose_grid(*image.size, self.max_dynamic_patch)
        whole = image.convert("RGB").resize((columns * side, rows * side), Image.Resampling.BICUBIC)
        corners = [(column * side, row * side) for row in range(rows) for column in range(columns)]
        pieces = [whole.crop((left, top, left + side, top + side)) for left, top in corners]
        if len(pieces) > 1:
            pieces.append(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
        return pieces

    def preprocess(self, images: Any, return_tensors: str | None = None, **kwargs: Any) -> BatchFeature:
        """Give all tiles of all pictures one behind the other, in bfloat16 as the original does."""
        pictures = images if isinstance(images, list) else [images]
        if not all(isinstance(picture, Image.Image) for picture in pictures):
            raise ValueError("Invalid image type, PIL images are needed")
        cut = [self.tiles(picture) for picture in pictures]
        raw = torch.from_numpy(np.stack([np.asarray(tile) for tiles in cut for tile in tiles]))
        scaled = (raw.float() / 255 - torch.tensor(self.image_mean)) / torch.tensor(self.image_std)
        values = scaled.permute(0, 3, 1, 2).contiguous().to(torch.bfloat16)
        return BatchFeature({"pixel_values": values, "num_patches_list": [len(tiles) for tiles in cut]})
