"""Let remote code that was written for transformers 4.51 run on transformers 5; SAIL-VL2's is.

`prepare` imports the classes that the folder's config.json names and changes those, which belong to that folder
alone. To transformers itself it only adds names that 5 has dropped, so no other model behaves differently.
Code that needs none of this is left as it is. It runs the folder's code: call it where that is trusted.
"""

import functools
import sys
from pathlib import Path
from typing import Any

COPIES = ("Qwen3Config", "Qwen3ForCausalLM")
"""Classes that SAIL-VL2 brings as a copy of transformers 4.51 and takes from transformers itself here.

The copy would need more than names on 5: its rope type "default" is gone (KeyError), its buffer inv_freq is
never filled after loading on the meta device, and `_tied_weights_keys` was a list. Where attention is "sdpa" it
also replaces that function for all models in the process by one for Huawei's NPUs. The weights' names and the
arithmetic are the same.
"""


def prepare(folder: Path, raw: dict[str, Any]) -> None:
    """Import and adapt the configuration and the model of a trusted folder; `raw` is its config.json.

    Call it before AutoConfig, AutoModel or AutoProcessor read the folder; a second call changes nothing more.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    _restore_names()
    auto_map = raw.get("auto_map", {})
    for auto, adapt in (("AutoConfig", _adapt_config), ("AutoModel", _adapt_model)):
        if reference := auto_map.get(auto):
            found = get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
            if "_adapted_by_vlserve" not in vars(found):
                _replace_copies(sys.modules[found.__module__])
                adapt(found)
                found._adapted_by_vlserve = True


def on_cpu() -> Any:
    """A context in which `.cuda()` leaves a tensor where it is, in this thread alone.

    SAIL-VL2's processor moves all that it returns to CUDA, also where there is none or the model is elsewhere.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return args[0] if func is torch.Tensor.cuda else func(*args, **(kwargs or {}))

    return OnCpu()


def _restore_names() -> None:
    """Add to transformers what its version 5 dropped and remote code imports."""
    from transformers import processing_utils, utils

    if not hasattr(utils, "LossKwargs"):  # renamed in 4.54; only ever a type for **kwargs
        utils.LossKwargs = utils.TransformersKwargs
    if not hasattr(processing_utils, "_validate_images_text_input_order"):  # gone in 5.0
        # It swapped the two when they came in the wrong order; here they are passed by name.
        processing_utils._validate_images_text_input_order = lambda images, text: (images, text)


def _replace_copies(module: Any) -> None:
    """In the module that uses them, put transformers' own classes in place of the folder's copies."""
    import transformers

    package = module.__name__.rpartition(".")[0]
    for name in COPIES:
        copy = getattr(module, name, None)
        if copy is not None and copy.__module__.rpartition(".")[0] == package:
            setattr(module, name, getattr(transformers, name))


def _adapt_config(config: Any) -> None:
    # transformers makes an instance without arguments to see the defaults; SAIL-VL2's own are an
    # architecture that it refuses (ValueError).
    config.has_no_defaults_at_init = True
    made = config.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        for part in (self, getattr(self, "llm_config", None)):
            # The file may ask for a package that is not there; None lets transformers choose, as 4.51 did
            # through the argument of from_pretrained.
            if "flash" in (getattr(part, "_attn_implementation", None) or "") and not _has_flash_attention():
                part._attn_implementation = None

    config.__init__ = init


def _has_flash_attention() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def _adapt_model(model: Any) -> None:
    """Call post_init after __init__ where the class does not: 5 takes from it what is to be tied."""
    made = model.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if not hasattr(self, "all_tied_weights_keys"):  # else: AttributeError in from_pretrained
            self.post_init()

    model.__init__ = init
