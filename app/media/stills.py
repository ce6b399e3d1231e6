"""Videos that come as pictures: an animated WEBP, or a list of frames."""

import bisect
from collections.abc import Callable
from threading import Event
from typing import Any

from app.media import images
from app.media.limits import Limits, check_count
from app.media.video import Planner, Video


def animation(image: Any, planner: Planner, limits: Limits, param: str, stopped: Event) -> Video:
    """The frames that the plan keeps of an animated picture, opened by Pillow."""
    import numpy as np

    count = int(getattr(image, "n_frames", 1))
    check_count(count, param)
    limits.check_animation(count, image.width, image.height, param)
    ends: list[float] = []
    wanted: dict[int, Any] = {}
    for number in range(count):
        if stopped.is_set():
            raise ValueError("stopped")
        image.seek(number)
        image.load()
        ends.append((ends[-1] if ends else 0.0) + (image.info.get("duration") or 100) / 1000)
        limits.check_seconds(ends[-1], param)
    rate = count / ends[-1]
    plan = planner(count, rate, image.size)
    starts = [0.0, *ends[:-1]]
    picks = [max(0, bisect.bisect_right(starts, (index + 0.5) / rate) - 1) for index in plan.indices]
    for number in sorted(set(picks)):
        if stopped.is_set():
            raise ValueError("stopped")
        image.seek(number)
        wanted[number] = plan.fit(np.asarray(images.rgb(image)))
    return Video(np.stack([wanted[pick] for pick in picks]), tuple(plan.indices), rate, count, image.size)


def listed(count: int, decoded: Callable[[int], Any], planner: Planner, rate: float) -> Video:
    """A video of so many pictures, decoded one by one, all of them used: an odd last one is shown twice."""
    import numpy as np

    first = decoded(0)
    total = count + count % 2
    plan = planner(total, rate, first.size)
    numbers = [min(index, count - 1) for index in plan.indices]
    made = {number: plan.fit(np.asarray(decoded(number) if number else first)) for number in set(numbers)}
    return Video(np.stack([made[number] for number in numbers]), tuple(plan.indices), rate, total, first.size)
