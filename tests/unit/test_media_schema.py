"""How media are to be prepared: what is taken, and in which words the rest is refused."""

from typing import Any

import pytest

from app.engine.media_types import MediaOptions
from app.errors import InvalidRequest
from app.schemas.fields import checked
from app.schemas.media import MediaOptionsSchema


@pytest.mark.parametrize("fps", [0.001, 0.5, 30, 10**9])
def test_a_rate_within_its_bounds_is_taken(fps: float) -> None:
    assert checked(MediaOptionsSchema(), {"fps": fps}) == MediaOptions(fps=fps)


@pytest.mark.parametrize("fps", [5e-324, 1e-308, 1e-300, 0.0009, 0, -1, 1e10])
def test_a_rate_beyond_them_is_refused_with_both(fps: float) -> None:
    with pytest.raises(InvalidRequest, match=r"it must be 0\.001 to 1000000000") as caught:
        checked(MediaOptionsSchema(), {"fps": fps})
    assert caught.value.param == "fps"


@pytest.mark.parametrize(
    ("given", "param"), [({"size": 1}, "size"), ({"": 1}, '""'), ({"": 1, "a": 2}, '""')]
)
def test_an_option_that_is_none_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(
        InvalidRequest, match="is not taken here; min_pixels, max_pixels, fps, num_frames are"
    ):
        checked(MediaOptionsSchema(), given)
    with pytest.raises(InvalidRequest) as caught:
        checked(MediaOptionsSchema(), given)
    assert caught.value.param == param
