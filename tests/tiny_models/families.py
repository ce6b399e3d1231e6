"""The families: how each one's model, processor files and generation settings are made."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import tokenizers
import transformers
from transformers import PreTrainedModel

from tests.tiny_models import templates, tokenization
from tests.tiny_models.tokenization import Style

LENGTH = 512
"""max_position_embeddings of all families."""

MARKER_VARIABLE = "TINY_REMOTE_MARKER"
"""Environment variable with the path of a file into which remote code, when executed, writes its name."""

_MARKER_CODE = f'''

import os  # noqa: E402
import pathlib  # noqa: E402

if os.environ.get("{MARKER_VARIABLE}"):
    with pathlib.Path(os.environ["{MARKER_VARIABLE}"]).open("a", encoding="utf-8") as _marker:
        _marker.write(__name__.rpartition(".")[2] + "\\n")
'''

_LANGUAGE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    "tie_word_embeddings": False,
}
_QWEN_ENDS = ("<|im_end|>", "<|endoftext|>")
_LLAMA_ENDS = ("<|end_of_text|>", "<|eot_id|>")
_CLIP_MEAN, _CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_HALF = [0.5, 0.5, 0.5]


@dataclasses.dataclass(frozen=True)
class Family:
    """One family."""

    style: Style
    template: str
    make: Callable[[tokenizers.Tokenizer], PreTrainedModel]
    generation: dict[str, Any]
    ends: tuple[str, ...] = _QWEN_ENDS
    write_processor: Callable[[pathlib.Path], None] | None = None
    remote_code: bool = False

    @property
    def sees(self) -> bool:
        """Whether the family takes pictures."""
        return self.write_processor is not None


def _ids(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    return {"vocab_size": tokenizer.get_vocab_size(), "eos_token_id": tokenizer.token_to_id(_QWEN_ENDS[0])}


def _qwen2(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**_LANGUAGE, **_ids(tokenizer)))


def _qwen3(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(**_LANGUAGE, head_dim=16, **_ids(tokenizer))
    )


def _llama(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    ids = _ids(tokenizer) | {
        "bos_token_id": tokenizer.token_to_id("<|begin_of_text|>"),
        "eos_token_id": [tokenizer.token_to_id(text) for text in _LLAMA_ENDS],
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_LANGUAGE, **ids))


def _picture_ids(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    names = {
        "image": "image_pad",
        "video": "video_pad",
        "vision_start": "vision_start",
        "vision_end": "vision_end",
    }
    return {f"{key}_token_id": tokenizer.token_to_id(f"<|{name}|>") for key, name in names.items()}


def _text_config(tokenizer: tokenizers.Tokenizer, **more: Any) -> dict[str, Any]:
    return _LANGUAGE | _ids(tokenizer) | {"bos_token_id": tokenizer.token_to_id("<|endoftext|>")} | more


def _qwen2_vl(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    config = transformers.Qwen2VLConfig(
        text_config=_text_config(
            tokenizer, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}
        ),
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2},
        **_picture_ids(tokenizer),
    )
    return transformers.Qwen2VLForConditionalGeneration(config)


def _qwen2_5_vl(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text_config(
            tokenizer, rope_parameters={"rope_type": "default", "mrope_section": [2, 3, 3]}
        ),
        vision_config=vision | {"fullatt_block_indexes": [1], "tokens_per_second": 2},
        **_picture_ids(tokenizer),
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 5e6}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    config = transformers.Qwen3VLConfig(
        text_config=_text_config(tokenizer, head_dim=16, rope_parameters=rope),
        vision_config=vision | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64},
        **_picture_ids(tokenizer),
    )
    return transformers.Qwen3VLForConditionalGeneration(config)


def _sail_vl2(tokenizer: tokenizers.Tokenizer) -> PreTrainedModel:
    from tests.tiny_models.remote_sailvl.configuration_sailvl import SAILVLConfig
    from tests.tiny_models.remote_sailvl.modeling_sailvl import SAILVLModel

    config = SAILVLConfig(
        llm_config=_text_config(tokenizer, head_dim=16, architectures=["Qwen3ForCausalLM"]),
        img_context_token_id=tokenizer.get_vocab()["<IMG_CONTEXT>"],
    )
    return SAILVLModel(config)


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Write a JSON file as the hub has them."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_qwen2_vl(folder: pathlib.Path, processor_class: str = "Qwen2VLProcessor") -> None:
    pixels = {"min_pixels": 4 * 28 * 28, "max_pixels": 64 * 28 * 28}
    sizes = {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    colours = {"image_mean": _CLIP_MEAN, "image_std": _CLIP_STD}
    names = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor_class}
    write_json(folder / "preprocessor_config.json", {**pixels, **sizes, **colours, **names})


def _write_qwen2_5_vl(folder: pathlib.Path) -> None:
    _write_qwen2_vl(folder, "Qwen2_5_VLProcessor")


def _write_qwen3_vl(folder: pathlib.Path) -> None:
    names = {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessorFast"},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen3VLVideoProcessor"},
    }
    common = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "processor_class": "Qwen3VLProcessor",
    }
    size = {"size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 64 * 32 * 32}}
    for name, kind in names.items():
        write_json(folder / name, {**size, **common, "image_mean": _HALF, "image_std": _HALF, **kind})


def _write_sail_vl2(folder: pathlib.Path) -> None:
    kind = {
        "AutoImageProcessor": "image_processing_sailvl.SAILVLImageProcessor",
        "AutoProcessor": "processing_sailvl.SAILVLProcessor",
    }
    sizes = {"patch_size": 14, "image_size": 56, "max_dynamic_patch": 6}
    write_json(folder / "preprocessor_config.json", {"auto_map": kind, **sizes})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = "modeling_sailvl.SAILVLModel"
    config["auto_map"] = {
        "AutoConfig": "configuration_sailvl.SAILVLConfig",
        "AutoModel": model,
        "AutoModelForCausalLM": model,
    }
    write_json(folder / "config.json", config)
    for source in sorted((pathlib.Path(__file__).parent / "remote_sailvl").glob("*_sailvl.py")):
        code = source.read_text(encoding="utf-8") + _MARKER_CODE
        (folder / source.name).write_text(code, encoding="utf-8")


_QWEN_SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
FAMILIES: dict[str, Family] = {
    "qwen2": Family(
        tokenization.QWEN2, templates.QWEN2, _qwen2, _QWEN_SAMPLING | {"repetition_penalty": 1.05}
    ),
    "qwen3": Family(
        tokenization.QWEN3, templates.QWEN3, _qwen3, _QWEN_SAMPLING | {"temperature": 0.6, "top_p": 0.95}
    ),
    "llama": Family(
        tokenization.LLAMA,
        templates.LLAMA,
        _llama,
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
        ends=_LLAMA_ENDS,
    ),
    "qwen2_vl": Family(
        tokenization.QWEN2,
        templates.QWEN_VL,
        _qwen2_vl,
        {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1},
        write_processor=_write_qwen2_vl,
    ),
    "qwen2_5_vl": Family(
        tokenization.QWEN2,
        templates.QWEN_VL,
        _qwen2_5_vl,
        {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
        write_processor=_write_qwen2_5_vl,
    ),
    "qwen3_vl": Family(
        tokenization.QWEN3,
        templates.QWEN3_VL,
        _qwen3_vl,
        _QWEN_SAMPLING | {"repetition_penalty": 1.0},
        write_processor=_write_qwen3_vl,
    ),
    "sail_vl2": Family(
        tokenization.SAIL,
        templates.SAIL,
        _sail_vl2,
        {"_from_model_config": True},
        ends=_QWEN_ENDS[:1],
        write_processor=_write_sail_vl2,
        remote_code=True,
    ),
}
