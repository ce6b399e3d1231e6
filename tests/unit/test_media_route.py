"""The upload's route: what is no whole form, and what the server has no room for."""

import gc
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from app.routes import slow
from app.settings import Settings
from tests.conftest import png, scene
from tests.harmful import upload

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(autouse=True)
def dropped() -> Iterator[None]:
    """The file of a form that cannot be read to its end is dropped by Werkzeug, not closed: here and now."""
    yield
    gc.collect()


def sent(client: FlaskClient, data: bytes) -> tuple[int, str]:
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\n'
    form = part.format("prompt") + "What is this?\r\n" + part.format('file"; filename="a.png')
    body = form.encode() + data + b"\r\n--x--\r\n"
    response = client.post("/v1/media/describe", data=body, content_type=FORM)
    return response.status_code, response.get_json().get("error", {}).get("code", "")


def test_a_file_on_disk_and_one_in_memory_are_described(client: FlaskClient) -> None:
    for padding in (0, 600_000):
        assert sent(client, png(scene()) + bytes(padding)) == (200, "")


@pytest.mark.parametrize(("in_time", "answer"), [(True, (200, "")), (False, (408, "request_timeout"))])
def test_the_time_for_an_upload_ends_when_it_has_come(
    client: FlaskClient, in_time: bool, answer: tuple[int, str]
) -> None:
    asked: list[bool] = []

    def read() -> bool:
        asked.append(in_time)
        return in_time

    before = slow.body_in_time.set(read)
    try:
        assert sent(client, png(scene())) == answer
    finally:
        slow.body_in_time.reset(before)
    assert asked == [in_time]  # from then on the answer may take any time


def test_a_disk_without_room_is_the_servers_fault(client: FlaskClient, small_files: None) -> None:
    assert sent(client, png(scene())) == (200, "")
    assert sent(client, png(scene()) + bytes(600_000)) == (503, "unavailable")


def test_more_than_a_file_may_have_is_refused(client: FlaskClient) -> None:
    assert sent(client, bytes(int(Settings().max_media_mb * 2**20) + 2**21))[0] == 413


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (
            b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nhello',
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"{}", "application/json", 415),
        (b"prompt=hello", "application/x-www-form-urlencoded", 415),
        (b"", FORM, 400),
        (b"hello", "multipart/form-data", 400),
    ],
)
def test_what_is_no_whole_form_is_refused(client: FlaskClient, body: bytes, kind: str, status: int) -> None:
    response = client.post("/v1/media/describe", data=body, content_type=kind)
    assert response.status_code == status
    assert response.get_json()["error"]["type"] == "invalid_request_error"


def test_parts_of_other_names_are_passed_over(client: FlaskClient) -> None:
    form = upload(("prompt", b"hi"), ("other", b"1"), ("other", b"2"), ('other"; filename="o.txt', b"3"))
    response = client.post("/v1/media/describe", data=form, content_type=FORM)
    assert response.status_code == 200


def test_a_form_of_a_long_prompt_within_the_limit_is_read(client: FlaskClient) -> None:
    form = upload(("prompt", b"a " * 300_000))
    response = client.post("/v1/media/describe", data=form, content_type=FORM)
    assert response.status_code == 200
