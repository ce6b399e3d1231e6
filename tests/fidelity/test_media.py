"""What a model gets of pictures and clips, tensor for tensor, against qwen-vl-utils and its own processor."""

import io
import pathlib
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from app.engine import torchvision_cpu
from app.engine.media_types import Clip, ImagePart, MediaOptions, VideoPart
from app.engine.types import Message, TextPart
from app.media import video
from app.media.limits import Limits
from tests import clips

torchvision_cpu.prepare()
from qwen_vl_utils import vision_process  # noqa: E402
from transformers import (  # noqa: E402
    AutoProcessor,
    AutoTokenizer,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
)

from app.engine.encode import PromptEncoder  # noqa: E402

QWEN = {"qwen2_vl": 14, "qwen2_5_vl": 14, "qwen3_vl": 16}
TEXT = "What is this?"
LIMITS = Limits(10**7, 1000, 10**8)


@pytest.fixture(scope="module", params=sorted(QWEN))
def family(request: pytest.FixtureRequest, tiny: Callable[[str], pathlib.Path]) -> tuple[str, Any]:
    return request.param, AutoProcessor.from_pretrained(tiny(request.param))


def encoder(processor: Any) -> PromptEncoder:
    return PromptEncoder(processor, vision=True, remote_code=False)


def reference(name: str, processor: Any, part: dict[str, Any]) -> Any:
    """As the model's card has it: qwen-vl-utils resizes and samples, the processor packs."""
    messages = [{"role": "user", "content": [part, {"type": "text", "text": TEXT}]}]
    images, videos, more = vision_process.process_vision_info(
        messages, return_video_kwargs=True, return_video_metadata=True, image_patch_size=QWEN[name]
    )
    if videos is not None:
        videos, metadata = zip(*videos, strict=True)
        more["video_metadata"] = list(metadata)
        videos = list(videos)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return processor(
        text=[text],
        images=images,
        videos=videos,
        return_tensors="pt",
        do_resize=False,
        **(more if videos else {}),
    )


def same(ours: dict[str, Any], theirs: Any) -> None:
    names = set(theirs) - {"token_type_ids"}
    assert names <= set(ours)
    for name in names:
        one, other = (torch.as_tensor(inputs[name]) for inputs in (ours, theirs))
        assert one.shape == other.shape, name
        assert torch.equal(one.to(other.dtype), other), name


def decoded(data: bytes, planner: video.Planner) -> video.Video:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        return video.decode(file, data[:4096], planner, LIMITS, "place", threading.Event())


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def budgets(processor: Any, options: MediaOptions) -> dict[str, int]:
    size = processor.image_processor.size
    return {
        "min_pixels": options.min_pixels or size["shortest_edge"],
        "max_pixels": min(options.max_pixels or 10**9, size["longest_edge"]),
    }


@pytest.mark.parametrize("size", [(448, 448), (640, 480), (37, 1003), (31, 29), (1920, 1080)])
@pytest.mark.parametrize(
    "options",
    [MediaOptions(), MediaOptions(max_pixels=50_000), MediaOptions(min_pixels=20_000, max_pixels=100_000)],
)
def test_a_picture_is_as_the_reference_makes_it(
    family: tuple[str, Any], size: tuple[int, int], options: MediaOptions
) -> None:
    name, processor = family
    image = noise(*size)
    message = Message("user", (ImagePart("", "place", image, options), TextPart(TEXT)))
    ours = encoder(processor).encode([message])
    same(ours, reference(name, processor, {"type": "image", "image": image, **budgets(processor, options)}))


def read_all(element: dict[str, Any]) -> Any:
    """A reader for qwen-vl-utils that decodes every frame, by PyAV, and then picks as its others do."""
    with av.open(io.BytesIO(FILES[element["video"]]), "r") as source:
        stream = source.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(stream)]
        fps = float(stream.average_rate or 0)
    count = vision_process.smart_nframes(element, total_frames=len(frames), video_fps=fps)
    indices = torch.linspace(0, len(frames) - 1, count).round().long().tolist()
    kept = torch.from_numpy(np.stack([frames[index] for index in indices])).permute(0, 3, 1, 2)
    told = {"fps": fps, "frames_indices": indices, "total_num_frames": len(frames), "video_backend": "av"}
    return kept, told, count / len(frames) * fps


FILES: dict[str, bytes] = {}


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vision_process.VIDEO_READER_BACKENDS, "all", read_all)
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "all")


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, MediaOptions()),
        ({"fps": 4.0}, MediaOptions(fps=4.0)),
        ({"nframes": 6}, MediaOptions(num_frames=6)),
        ({"nframes": 7}, MediaOptions(num_frames=7)),
        ({"min_pixels": 4 * 1024, "max_pixels": 30_000}, MediaOptions(4 * 1024, 30_000)),
    ],
    ids=["default", "fps", "frames", "odd frames", "pixels"],
)
@pytest.mark.usefixtures("reader")
def test_a_clip_is_as_the_reference_makes_it(
    family: tuple[str, Any], kind: str, asked: dict[str, Any], options: MediaOptions
) -> None:
    name, processor = family
    if name == "qwen2_vl":  # its processor says nothing of time, so its inputs cannot be compared by name
        return
    data = FILES[kind] = clips.video(clips.moving(count=60, size=(320, 240)), kind, fps=10)
    made = encoder(processor)
    found = decoded(data, lambda total, fps, size: made.fitter.clip(total, fps, size, options))
    clip = Clip(found.frames, found.indices, found.fps, found.total, found.size)
    message = Message("user", (VideoPart("", "place", clip), TextPart(TEXT)))
    theirs = reference(name, processor, {"type": "video", "video": kind, **asked})
    same(made.encode([message]), theirs)


LLAVA = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}"
    "{% endfor %}{% endfor %}"
)


@pytest.fixture
def llava(tiny: Callable[[str], pathlib.Path]) -> Any:
    """LLaVA-OneVision's processor, which resizes and counts in its own way, for pictures of 56 pixels."""
    tokenizer = AutoTokenizer.from_pretrained(tiny("qwen2"))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    size = {"height": 56, "width": 56}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[56, 56], [56, 112]]),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=LLAVA,
    )


def test_a_processor_of_its_own_gets_frames_and_pictures_as_they_are(llava: Any) -> None:
    data = clips.video(clips.moving(count=24, size=(128, 96)), "mp4", fps=12)
    made, image = encoder(llava), noise(100, 60)
    asked = MediaOptions(num_frames=4)
    found = decoded(data, lambda total, fps, size: made.fitter.clip(total, fps, size, asked))
    assert (found.indices, found.frames.shape) == ((0, 8, 15, 23), (4, 96, 128, 3))
    clip = Clip(found.frames, found.indices, found.fps, found.total, found.size)
    parts = (VideoPart("", "clip", clip), TextPart("and"), ImagePart("", "image", image), TextPart(TEXT))
    ours = made.encode([Message("user", parts)])
    frames = torch.from_numpy(found.frames).permute(0, 3, 1, 2)
    same(ours, llava(text=[f"<video>and<image>{TEXT}"], images=[image], videos=[frames], return_tensors="pt"))
    told = made.visual_tokens(ours)
    assert told["media_tokens"] == (told["image_tokens"], told["video_tokens"])
    assert min(told["media_tokens"]) > 4
