"""Places to decode in: one of them is never a video's, and who is not waited for does not wait either."""

import contextlib
import threading

import pytest

from app.media.places import Places


def test_videos_leave_a_place_to_pictures() -> None:
    places, going, stopped = Places(3), threading.Event(), threading.Event()
    stopped.set()
    with contextlib.ExitStack() as held:
        for _ in range(2):
            held.enter_context(places.one("video", going))
        with pytest.raises(ValueError, match="stopped"), places.one("video", stopped):
            pass
        held.enter_context(places.one("image", going))
        with pytest.raises(ValueError, match="stopped"), places.one("image", stopped):
            pass
    with places.one("video", going), places.one("video", going), places.one("image", going):
        pass


def test_pictures_may_have_all_of_them_and_leave_none_to_a_video() -> None:
    places, going, stopped = Places(2), threading.Event(), threading.Event()
    stopped.set()
    with (
        places.one("image", going),
        places.one("image", going),
        pytest.raises(ValueError, match="stopped"),
        places.one("video", stopped),
    ):
        pass
    with places.one("video", going):  # what it held while it waited was given back
        pass


def test_who_is_stopped_takes_no_place_that_is_free() -> None:
    places, stopped = Places(2), threading.Event()
    stopped.set()
    with pytest.raises(ValueError, match="stopped"), places.one("image", stopped):
        pass


def test_who_waits_gets_the_next_place() -> None:
    places, going, entered = Places(2), threading.Event(), threading.Event()

    def late() -> None:
        with places.one("image", going):
            entered.set()

    with places.one("image", going), contextlib.ExitStack() as other:
        other.enter_context(places.one("image", going))
        thread = threading.Thread(target=late)
        thread.start()
        assert not entered.wait(0.1)
        other.close()
        assert entered.wait(20)
        thread.join(20)
