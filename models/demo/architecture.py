"""The model's architecture: Qwen3-VL at the smallest size that learns the demo world, below 6 million
parameters.
"""

from typing import TYPE_CHECKING, Any

import torch

from app.engine import torchvision_cpu

if TYPE_CHECKING:
    from transformers import Qwen3VLForConditionalGeneration

MAX_PARAMETERS = 6_000_000
TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [12, 10, 10],  # 32 frequencies of a head: time, height, width
        "mrope_interleaved": True,
    },
    "tie_word_embeddings": True,
}
VISION: dict[str, Any] = {
    "depth": 6,
    "hidden_size": 160,
    "intermediate_size": 448,
    "num_heads": 5,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 256,
    "num_position_embeddings": 256,
    "deepstack_visual_indexes": [2],
    "hidden_act": "gelu_pytorch_tanh",
}


def build(vocabulary: int, tokens: dict[str, int]) -> "Qwen3VLForConditionalGeneration":
    """Make the untrained model for a vocabulary size and the ids of its special tokens."""
    torchvision_cpu.prepare()
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ends: dict[str, Any] = {"pad_token_id": tokens["<|endoftext|>"], "eos_token_id": tokens["<|im_end|>"]}
    config = Qwen3VLConfig(
        text_config=TEXT | {"vocab_size": vocabulary} | ends,
        vision_config=dict(VISION),
        image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"],
        vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"],
        tie_word_embeddings=True,
        **ends,
    )
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        known = places(VISION["num_position_embeddings"], VISION["hidden_size"])
        model.model.visual.pos_embed.weight.copy_(known)
    return model


def places(count: int, width: int) -> torch.Tensor:
    """Sines and cosines of the row and the column of a square grid, (count, width).

    Position embeddings that start near zero are drowned by the patches, and "where" is then never learnt.
    """
    side = round(count**0.5)
    rates = torch.pi * 1.25 ** torch.arange(-4, width // 4 - 4).clamp(max=9).float()
    axis = torch.linspace(0, 1, side)[:, None] * rates[None]
    waves = torch.cat([axis.sin(), axis.cos()], dim=1) * 0.6
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(count, width)


def parameters(model: "Qwen3VLForConditionalGeneration") -> int:
    """The number of the model's parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
