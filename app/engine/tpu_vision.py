"""The vision tower on a TPU: one picture, or two frames of a clip, at a time."""

import numpy as np

from app.engine.bmrt import DeviceMemory
from app.engine.tpu_device import Array, Device, View
from app.engine.tpu_layout import Layout
from app.engine.tpu_prompt import HIDDEN, Picture, Vision, interpolation, places, windows


class Tower:
    """The network `vit` and its buffers."""

    def __init__(self, device: Device, layout: Layout, vision: Vision) -> None:
        self._device, self._layout, self._vision = device, layout, vision
        self._net = layout.nets["vit"]
        self._inputs = [device.allocate(port.bytes) for port in self._net.inputs]
        self._outputs = [device.allocate(port.bytes) for port in self._net.outputs]

    def cells(self, picture: Picture) -> int:
        """Tokens that a picture takes."""
        return picture.patches // self._vision.merge**2

    def look(self, picture: Picture) -> tuple[DeviceMemory, list[DeviceMemory]]:
        """A picture's features, a row for each token, and those for the deepstack layers; until the next
        picture.
        """
        values = self._windowed(picture) if self._layout.vit_is_windowed else self._plain(picture)
        views = []
        for memory, port, value in zip(self._inputs, self._net.inputs, values, strict=True):
            whole = value if self._net.is_dynamic else _padded(value, port.dims)
            self._device.write(memory, whole)
            views.append(View(memory, port.dtype, whole.shape))
        self._device.launch(self._net, views, self._outputs)
        return self._outputs[0], self._outputs[1 : 1 + self._layout.deepstack]

    def _plain(self, picture: Picture) -> list[Array]:
        """Qwen3-VL's: pixels, places, and where in the learned grid of positions they are."""
        taps, weights = interpolation(picture, self._vision.merge, self._vision.grid)
        seen = np.zeros((1, 1, picture.patches, picture.patches), np.float32)
        values = [picture.pixels, places(picture, self._vision.merge), taps, weights[:, :, None], seen]
        return values[: len(self._net.inputs)]

    def _windowed(self, picture: Picture) -> list[Array]:
        """Qwen2.5-VL's: all in the order of its windows, the masks, and the order that restores the cells."""
        merge, count = self._vision.merge, self._layout.patches // self._vision.merge**2
        order, window = windows(picture, merge, self._vision.windows)
        patches = (order[:, None] * merge**2 + np.arange(merge**2)).ravel()
        inside = np.repeat(window, merge**2)
        apart = np.where(inside[:, None] == inside, np.float32(0), np.float32(HIDDEN))
        back = np.arange(count, dtype=np.int32)  # as long as compiled, also where the rest is dynamic
        back[: len(order)] = np.argsort(order)
        whole = np.zeros((1, 1, picture.patches, picture.patches), np.float32)
        return [picture.pixels[patches], places(picture, merge)[patches], whole, apart[None, None], back]


def _padded(value: Array, dims: tuple[int, ...]) -> Array:
    """A value in a compiled shape; masks (1, 1, patches, patches) hide what is added, the rest is zero."""
    whole = np.full(dims, HIDDEN if len(dims) == 4 else 0, value.dtype)
    whole[tuple(slice(size) for size in value.shape)] = value
    return whole
