"""Remote code in the manner of transformers 4.51 runs on the installed one, and nothing else changes."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from app.engine import remote_code, torchvision_cpu

torchvision_cpu.prepare()

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from transformers import AutoConfig, AutoModel, processing_utils, utils  # noqa: E402
from transformers.dynamic_module_utils import get_class_from_dynamic_module  # noqa: E402
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: E402

CONFIGURATION = """
from transformers.configuration_utils import PretrainedConfig

from .configuration_qwen3 import Qwen3Config


class OldConfig(PretrainedConfig):
    model_type = "old"

    def __init__(self, llm_config, **kwargs):
        super().__init__(**kwargs)
        self.llm_config = Qwen3Config(**llm_config)

    def to_dict(self):
        return {**super().to_dict(), "llm_config": self.llm_config.to_dict()}
"""
CONFIGURATION_QWEN3 = """
from transformers.configuration_utils import PretrainedConfig


class Qwen3Config(PretrainedConfig):
    model_type = "qwen3"
"""
MODELING = """
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from .configuration_old import OldConfig
from .modeling_qwen3 import Qwen3ForCausalLM


class OldModel(PreTrainedModel):
    config_class = OldConfig

    def __init__(self, config):
        super().__init__(config)
        self.language_model = Qwen3ForCausalLM(config.llm_config)
        self.adapter = nn.Linear(2, 2)
"""
MODELING_QWEN3 = """
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import _validate_images_text_input_order
from transformers.utils import LossKwargs


class KwargsForCausalLM(LossKwargs): ...


class Qwen3ForCausalLM(PreTrainedModel):
    _tied_weights_keys = ["lm_head.weight"]

    def __init__(self, config):
        super().__init__(config)
        self.rope = ROPE_INIT_FUNCTIONS["default"]
        ALL_ATTENTION_FUNCTIONS["sdpa"] = None
        self.post_init()
"""
LANGUAGE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attn_implementation": "flash_attention_2",
    "head_dim": 8,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "vocab_size": 32,
}
RAW: dict[str, Any] = {
    "_attn_implementation": "flash_attention_2",
    "auto_map": {"AutoConfig": "configuration_old.OldConfig", "AutoModel": "modeling_old.OldModel"},
    "llm_config": LANGUAGE,
    "model_type": "old",
}


@pytest.fixture
def language() -> Any:
    """The language model as transformers makes it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        sizes = {name: value for name, value in LANGUAGE.items() if name != "attn_implementation"}
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**sizes)).eval()


@pytest.fixture
def folder(tmp_path: Path, language: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with old code; transformers lacks the dropped names, as in a fresh process."""
    monkeypatch.delattr(utils, "LossKwargs", raising=False)
    monkeypatch.delattr(processing_utils, "_validate_images_text_input_order", raising=False)
    code = {
        "configuration_old": CONFIGURATION,
        "configuration_qwen3": CONFIGURATION_QWEN3,
        "modeling_old": MODELING,
        "modeling_qwen3": MODELING_QWEN3,
    }
    for name, text in code.items():
        # A hash of the text names the module in the process: without the path, tests would share classes.
        (tmp_path / f"{name}.py").write_text(f"# {tmp_path}\n{text}", encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(RAW), encoding="utf-8")
    weights = {f"language_model.{name}": value for name, value in language.state_dict().items()}
    weights["language_model.lm_head.weight"] = weights["language_model.lm_head.weight"].clone()
    weights |= {"adapter.weight": torch.eye(2), "adapter.bias": torch.ones(2)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def load(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder, trust_remote_code=True, local_files_only=True).eval()


def test_old_code_does_not_load_unprepared(folder: Path) -> None:
    with pytest.raises(ImportError, match=r"_validate_images_text_input_order|LossKwargs"):
        get_class_from_dynamic_module(RAW["auto_map"]["AutoModel"], str(folder), local_files_only=True)


def test_old_code_loads_and_answers_as_transformers_does(folder: Path, language: Any) -> None:
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    remote_code.prepare(folder, RAW)
    model = load(folder)
    assert type(model).__module__.startswith("transformers_modules.")
    assert model.adapter.bias.tolist() == [1, 1]
    assert isinstance(model.language_model, transformers.Qwen3ForCausalLM)
    prompt = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        torch.testing.assert_close(model.language_model(prompt).logits, language(prompt).logits)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa


def test_the_configuration_of_the_copy_is_replaced_too(folder: Path) -> None:
    remote_code.prepare(folder, RAW)
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    assert isinstance(config.llm_config, transformers.Qwen3Config)
    rope: Any = config.llm_config.rope_parameters
    assert rope["rope_theta"] == 1000000


def test_a_wish_for_flash_attention_is_dropped(folder: Path) -> None:
    remote_code.prepare(folder, RAW)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
    assert config._attn_implementation is None
    assert config.llm_config._attn_implementation is None


def test_prepare_adapts_once_and_keeps_what_transformers_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type("LossKwargs", (), {})
    monkeypatch.setattr(utils, "LossKwargs", own, raising=False)
    remote_code.prepare(folder, RAW)
    reference = RAW["auto_map"]["AutoModel"]
    adapted: Any = get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
    init = vars(adapted)["__init__"]
    remote_code.prepare(folder, RAW)
    assert vars(adapted)["__init__"] is init
    assert vars(utils)["LossKwargs"] is own


def test_the_images_and_the_text_pass_in_their_order(folder: Path) -> None:
    remote_code.prepare(folder, {})
    check = vars(processing_utils)["_validate_images_text_input_order"]
    assert check("images", "text") == ("images", "text")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here .cuda() works")
def test_cuda_is_harmless_in_this_thread_and_while_asked_for() -> None:
    tensor = torch.ones(2)
    elsewhere: list[str] = []

    def call() -> None:
        try:
            tensor.cuda()
        except (AssertionError, RuntimeError) as error:
            elsewhere.append(type(error).__name__)

    with remote_code.on_cpu():
        assert tensor.cuda() is tensor
        assert (tensor + 1).cuda().to(torch.bfloat16).tolist() == [2, 2]
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    call()
    assert len(elsewhere) == 2
