"""Model of a tiny SAIL-VL2: vision encoder, pixel shuffle, two-layer adapter, Qwen3."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen3ForCausalLM

from .configuration_sailvl import SAILViTConfig, SAILVLConfig


class SAILViTAttention(nn.Module):
    """Attention among all patches of a tile."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        tiles, patches, width = hidden.shape
        parts = self.qkv(hidden).reshape(tiles, patches, 3, self.num_heads, width // self.num_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        joined: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(tiles, patches, width))
        return joined


class SAILViTBlock(nn.Module):
    """One layer of the vision encoder."""

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attn = SAILViTAttention(config)
        self.norm_2 = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attn(self.norm_1(hidden))
        normed = self.norm_2(hidden)
        added: torch.Tensor = self.fc2(nn.functional.silu(self.fc1(normed)) * self.fc3(normed))
        return hidden + added


class SAILViTModel(PreTrainedModel):
    """The vision encoder: tiles in, one vector for each patch out."""

    config_class = SAILViTConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SAILViTConfig) -> None:
        super().__init__(config)
        patches = (config.image_size // config.patch_size) ** 2
        self.patchifier = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.position = nn.Parameter(torch.zeros(1, patches, config.hidden_size))
        self.blocks = nn.ModuleList([SAILViTBlock(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        hidden = self.patchifier(pixel_values).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            hidden = block(hidden)
        normed: torch.Tensor = self.norm(hidden)
        return normed


class SAILVLModel(PreTrainedModel):
    """The whole model; its `generate` hands embeddings to the inner model and returns only the new tokens."""

    config_class = SAILVLConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: SAILVLConfig) -> None:
        super().__init__(config)
        self.downsample_ratio = config.downsample_ratio
        self.img_context_token_id = config.img_context_token_id
        self.vision_model = SAILViTModel(config.vision_config)
        self.language_model: Any = Qwen3ForCausalLM(config.llm_config)
        vision_size = config.vision_config.hidden_size * int(1 / config.downsample_ratio) ** 2
        hidden_size = config.llm_config.hidden_size
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(vision_size),
            nn.Linear(vision_size, hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
        )
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    def pixel_shuffle(self, patches: torch.Tensor) -> torch.Tensor:
        """Join each square of neighbouring patches into one longer vector."""
        tiles, height, width, channels = patches.shape
        side = int(1 / self.downsample_ratio)
        squares = patches.reshape(tiles, height // side, side, width // side, side, channels)
        return squares.permute(0, 1, 3, 2, 4, 5).reshape(tiles, -1, side * side * channels)

    def extract_feature(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Turn tiles into embeddings of the language model."""
        patches = self.vision_model(pixel_values)
        side = int(patches.shape[1] ** 0.5)
        squares = self.pixel_shuffle(patches.reshape(patches.shape[0], side, side, -1))
        features: torch.Tensor = self.mlp1(squares)
        return features

    def embed(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None) -> torch.Tensor:
        """Embed the tokens, with the picture in place of the context tokens."""
        embeddings: torch.Tensor = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is None:
            return embeddings
        selected = input_ids == self.img_context_token_id
        features = self.extract_feature(pixel_values).reshape(-1, embeddings.shape[-1])
        if int(selected.sum()) != features.shape[0]:
            raise ValueError(f"{int(selected.sum())} context tokens for {features.shape[0]} picture vectors")
        embeddings = embeddings.clone()
        embeddings[selected] = features.to(embeddings.dtype)
        return embeddings

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if input_ids is None:
            raise ValueError("input_ids are needed")
        embeddings = self.embed(input_ids, pixel_values)
        return self.language_model(inputs_embeds=embeddings, attention_mask=attention_mask, **kwargs)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        visual_features: torch.Tensor | None = None,
        **generate_kwargs: Any,
    ) -> Any:
        if input_ids is None:
            raise ValueError("input_ids are needed")
        if visual_features is not None:
            raise NotImplementedError("visual_features")
        return self.language_model.generate(
            inputs_embeds=self.embed(input_ids, pixel_values),
            attention_mask=attention_mask,
            use_cache=True,
            **generate_kwargs,
        )
