"""Videos that come as pictures: an animated WEBP, or a list of frames."""

import bisect
from collections.abc import Callable, Sequence
from typing import Any

from app.media.video import Limits, Planner, Video, check_count, too_long


def animation(image: Any, planner: Planner, limits: Limits, param: str, rgb: Callable[[Any], Any]) -> Video:
    """The frames that the plan keeps of an animated picture, opened by Pillow; `rgb` makes them 8-bit."""
    import numpy as np

    count = int(getattr(image, "n_frames", 1))
    check_count(count, param)
    ends: list[float] = []
    wanted: dict[int, Any] = {}
    for number in range(count):
        image.seek(number)
        image.load()
        ends.append((ends[-1] if ends else 0.0) + (image.info.get("duration") or 100) / 1000)
        if ends[-1] > limits.seconds:
            raise too_long(ends[-1], limits, param)
    rate = count / ends[-1]
    plan = planner(count, rate, image.size)
    starts = [0.0, *ends[:-1]]
    picks = [max(0, bisect.bisect_right(starts, (index + 0.5) / rate) - 1) for index in plan.indices]
    for number in sorted(set(picks)):
        image.seek(number)
        wanted[number] = plan.fit(np.asarray(rgb(image.copy())))
    return Video(np.stack([wanted[pick] for pick in picks]), tuple(plan.indices), rate, count, image.size)


def listed(frames: Sequence[Any], planner: Planner, rate: float) -> Video:
    """A video of a list of pictures, which is used whole: an odd last one is shown twice."""
    import numpy as np

    whole = list(frames) + list(frames[-1:]) * (len(frames) % 2)
    plan = planner(len(whole), rate, frames[0].size)
    kept = np.stack([plan.fit(np.asarray(whole[index])) for index in plan.indices])
    return Video(kept, tuple(plan.indices), rate, len(whole), frames[0].size)
