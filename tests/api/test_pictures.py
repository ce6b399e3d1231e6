"""What the demo model sees, through the official client; and pictures of every size and mode."""

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.conftest import Server, asks, data_url, scene


def answer(server: Server, messages: Any, **options: Any) -> str:
    done = server.client.chat.completions.create(model="demo", messages=messages, **options)
    return str(done.choices[0].message.content)


@pytest.mark.parametrize(
    ("colour", "shape", "chinese_colour", "chinese_shape"),
    [
        ("red", "circle", "红", "圆"),
        ("blue", "square", "蓝", "方"),
        ("green", "triangle", "绿", "三角"),
        ("yellow", "circle", "黄", "圆"),
        ("black", "square", "黑", "方"),
        ("orange", "triangle", "橙", "三角"),
    ],
)
def test_it_names_shape_and_colour_in_both_languages(
    server: Server, colour: str, shape: str, chinese_colour: str, chinese_shape: str
) -> None:
    picture = scene(colour=colour, shape=shape)
    english = answer(server, asks("What is in this picture?", picture)).lower()
    assert colour in english
    assert shape in english
    chinese = answer(server, asks("图里有什么？", picture))
    assert chinese_colour in chinese
    assert chinese_shape in chinese


def two_objects() -> Image.Image:
    picture = Image.new("RGB", (480, 480), "white")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((30, 30, 150, 150), fill="red")
    draw.rectangle((340, 340, 440, 440), fill="blue")
    return picture


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("How many objects are there?", ["two"]),
        ("What colour is the circle?", ["red"]),
        ("What color is the square?", ["blue"]),
        ("Where is the circle?", ["top left"]),
        ("Where is the square?", ["bottom right"]),
        ("Is there a triangle?", ["no"]),
        ("Is there a circle?", ["yes"]),
        ("图中有几个物体？", ["两"]),
        ("圆形是什么颜色的？", ["红"]),
        ("方形在哪里？", ["右下"]),
        ("有三角形吗？", ["没有"]),
    ],
)
def test_it_answers_questions_about_a_scene(server: Server, question: str, words: list[str]) -> None:
    text = answer(server, asks(question, two_objects())).lower()
    assert all(word in text for word in words), text


def test_it_reads_a_drawn_word(server: Server) -> None:
    picture = Image.new("RGB", (400, 200), "white")
    ImageDraw.Draw(picture).text((90, 60), "HELLO", fill="black", font=ImageFont.load_default(size=64))
    assert "HELLO" in answer(server, asks("What does it say?", picture))
    assert "HELLO" in answer(server, asks("上面写着什么？", picture))


def test_it_follows_up_in_a_second_turn(server: Server) -> None:
    messages = asks("How many objects are there?", two_objects())
    messages.append({"role": "assistant", "content": answer(server, messages)})
    messages.append({"role": "user", "content": "What colour is the square?"})
    assert "blue" in answer(server, messages).lower()


def test_it_compares_two_pictures(server: Server) -> None:
    same = answer(server, asks("Are these two pictures the same?", scene(), scene())).lower()
    other = answer(server, asks("Are these two pictures the same?", scene(), two_objects())).lower()
    assert same.startswith("yes")
    assert other.startswith("no")


def test_it_says_what_it_is_and_that_it_does_not_know(server: Server) -> None:
    assert "demo" in answer(server, asks("Who are you?"))
    assert "--model" in answer(server, asks("How do I load a real model?"))
    assert "don't know" in answer(server, asks("What is the capital of France?"))
    assert "不知道" in answer(server, asks("法国的首都是哪里？"))


def odd_pictures() -> dict[str, Image.Image]:
    """Pictures of a red circle, or of nothing, that are odd in one way each."""
    red = scene(colour="red", shape="circle")
    alpha = Image.new("RGBA", (448, 448), (0, 0, 0, 0))
    ImageDraw.Draw(alpha).ellipse((134, 134, 314, 314), fill=(255, 0, 0, 255))
    grey = scene(colour="gray", shape="circle").convert("L")
    sixteen = Image.frombytes("I;16", grey.size, b"".join(bytes((p, p)) for p in grey.tobytes()))
    return {
        "RGBA": alpha,
        "palette": red.quantize(16),
        "palette with transparency": alpha.quantize(16),
        "LA": grey.convert("LA"),
        "L": grey,
        "1 bit": grey.convert("1"),
        "16 bit": sixteen,
        "1 × 1": Image.new("RGB", (1, 1), "red"),
        "1 × 300": Image.new("RGB", (1, 300), "red"),
        "9000 × 2": Image.new("RGB", (9000, 2), "red"),
        "3 : 1": scene(size=(900, 300)),
        "1 : 3": scene(size=(200, 600)),
        "noise": Image.effect_noise((500, 375), 80).convert("RGB"),
    }


@pytest.mark.parametrize("name", odd_pictures())
def test_odd_pictures_are_taken(server: Server, name: str) -> None:
    text = answer(server, asks("What is in this picture?", odd_pictures()[name]))
    assert text
    if name in ("RGBA", "palette", "palette with transparency", "3 : 1", "1 : 3"):
        assert "red circle" in text
    if name in ("L", "LA", "16 bit"):
        assert "gray circle" in text


def test_cmyk_rotated_and_animated_pictures_are_seen_as_people_see_them(server: Server) -> None:
    cmyk = data_url(scene().convert("CMYK"), "JPEG")
    top = Image.new("RGB", (448, 448), "white")
    ImageDraw.Draw(top).ellipse((20, 20, 130, 130), fill="red")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    rotated = data_url(top, "JPEG", exif=exif.tobytes())
    frames = [scene(), scene(colour="blue", shape="square")]
    animated = data_url(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for url, words in ((cmyk, "red circle"), (rotated, "bottom right"), (animated, "red circle")):
        parts = [{"type": "image", "image": url}, {"type": "text", "text": "What is in this picture?"}]
        text = answer(server, [{"role": "user", "content": parts}])
        assert words in text


def test_a_picture_of_8000_by_8000_is_taken(server: Server) -> None:
    buffer = io.BytesIO()
    scene(size=(8000, 8000)).save(buffer, "PNG", compress_level=1)
    assert len(buffer.getvalue()) < 12_000_000
    text = answer(server, asks("What is in this picture?", scene(size=(8000, 8000))))
    assert "red circle" in text
