"""A web server on loopback for the tests of media."""

from collections.abc import Iterator

import pytest

from tests.conftest import png, scene
from tests.media_server import MediaServer, serving


@pytest.fixture(scope="module")
def web() -> Iterator[MediaServer]:
    """It has a picture, and behaves as badly as its paths say."""
    with serving() as started:
        started.files["/scene.png"] = png(scene())
        yield started
