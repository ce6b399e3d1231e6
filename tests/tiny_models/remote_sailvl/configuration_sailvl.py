"""Configuration of a tiny SAIL-VL2: a vision encoder, an adapter and a Qwen3 language model."""

from typing import Any

from transformers import PreTrainedConfig, Qwen3Config


class SAILViTConfig(PreTrainedConfig):
    """Configuration of the vision encoder."""

    model_type = "sailvit"

    def __init__(
        self,
        hidden_size: int = 32,
        intermediate_size: int = 64,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 2,
        image_size: int = 56,
        patch_size: int = 14,
        rms_norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.rms_norm_eps = rms_norm_eps


class SAILVLConfig(PreTrainedConfig):
    """Configuration of the whole model; like the original it calls the language part `llm_config`."""

    model_type = "sailvl"
    is_composition = True

    def __init__(
        self,
        vision_config: dict[str, Any] | None = None,
        llm_config: dict[str, Any] | None = None,
        select_layer: int = -1,
        force_image_size: int = 56,
        downsample_ratio: float = 0.5,
        dynamic_image_size: bool = True,
        use_thumbnail: bool = True,
        ps_version: str = "v2",
        template: str = "univl-chat",
        min_dynamic_patch: int = 1,
        max_dynamic_patch: int = 6,
        img_context_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vision_config = SAILViTConfig(**(vision_config or {}))
        self.llm_config = Qwen3Config(**(llm_config or {}))
        self.select_layer = select_layer
        self.force_image_size = force_image_size
        self.downsample_ratio = downsample_ratio
        self.dynamic_image_size = dynamic_image_size
        self.use_thumbnail = use_thumbnail
        self.ps_version = ps_version
        self.template = template
        self.min_dynamic_patch = min_dynamic_patch
        self.max_dynamic_patch = max_dynamic_patch
        self.img_context_token_id = img_context_token_id
