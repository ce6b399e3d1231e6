"""Let remote code that was written for transformers 4.51 run on transformers 5, as SAIL-VL2's was.

`prepare` imports the classes that a folder's config.json names and changes those, which belong to that folder
alone. To transformers itself it only adds names that 5 has dropped: no other model behaves differently. Code
that needs none of this stays as it is. Importing runs the folder's code: only where that is trusted.
"""

import functools
import sys
from pathlib import Path
from typing import Any

COPIES = ("Qwen3Config", "Qwen3ForCausalLM")
"""Classes that SAIL-VL2 brings as a copy of transformers 4.51's, for which the installed ones are taken.

Names alone would not help the copy: on 5 its rope type "default" is gone (KeyError), nobody fills its buffer
inv_freq after a load on the meta device, and its list `_tied_weights_keys` must be a mapping. Where attention
is "sdpa" it also puts a function for Huawei's NPUs in the place of sdpa, for all models of the process. The
weights have the same names, and the answers are the same, token by token.
"""


def prepare(folder: Path, raw: dict[str, Any]) -> Any:
    """Import and adapt the configuration and the model class of a trusted folder; `raw` is its config.json.

    To be called before the Auto classes read the folder. A second call changes nothing more. Returns the
    model class, able to generate, or None if config.json names none. AutoModel itself would do for a first
    load only: it registers the class without GenerationMixin and takes that one the next time.
    """
    from transformers.dynamic_module_utils import get_class_from_dynamic_module
    from transformers.models.auto.auto_factory import add_generation_mixin_to_remote_model

    _restore_names()
    auto_map = raw.get("auto_map") or {}
    model: Any = None
    for auto, adapt in (("AutoConfig", _adapt_config), ("AutoModel", _adapt_model)):
        if reference := auto_map.get(auto):
            found: Any = get_class_from_dynamic_module(reference, str(folder), local_files_only=True)
            if "_is_adapted" not in vars(found):
                _replace_copies(sys.modules[found.__module__])
                adapt(found)
                found._is_adapted = True
            model = found
    return None if "AutoModel" not in auto_map else add_generation_mixin_to_remote_model(model)


def on_cpu() -> Any:
    """A context in which `.cuda()` leaves a tensor where it is, in this thread only.

    SAIL-VL2's processor calls it on all that it returns, also where there is no CUDA or the model is
    elsewhere. The engine moves the inputs to the model's device by itself.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class OnCpu(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return args[0] if func is torch.Tensor.cuda else func(*args, **(kwargs or {}))

    return OnCpu()


def _restore_names() -> None:
    """Add to transformers what old code imports; a name that is there stays as it is."""
    from transformers import processing_utils, utils
    from transformers.utils.generic import TransformersKwargs

    dropped = (
        # Renamed to TransformersKwargs after 4.51; never more than the type of some **kwargs.
        (utils, "LossKwargs", TransformersKwargs),
        # Dropped after 4.51. It swapped the two if they came in the wrong order; encode.py names them.
        (processing_utils, "_validate_images_text_input_order", lambda images, text: (images, text)),
    )
    for module, name, value in dropped:
        if not hasattr(module, name):
            setattr(module, name, value)


def _replace_copies(module: Any) -> None:
    """In the module that uses the folder's copies, put transformers' own classes in their place."""
    import transformers

    package = module.__name__.rpartition(".")[0]
    for name in COPIES:
        copy = getattr(module, name, None)
        if copy is not None and copy.__module__.rpartition(".")[0] == package:
            setattr(module, name, getattr(transformers, name))


def _adapt_config(config: Any) -> None:
    """Drop a file's wish for flash attention.

    5 raises ValueError at the class, which says `_supports_flash_attn_2` as 4 had it, or ImportError where
    the package is not there. With None it chooses sdpa.
    """
    made = config.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        for part in (self, getattr(self, "llm_config", self)):
            if "flash" in (getattr(part, "_attn_implementation", None) or ""):
                part._attn_implementation = None

    config.__init__ = init


def _adapt_model(model: Any) -> None:
    """Call post_init, without which 5 raises AttributeError (all_tied_weights_keys), if __init__ does not."""
    made = model.__init__

    @functools.wraps(made)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        if not hasattr(self, "all_tied_weights_keys"):
            self.post_init()

    model.__init__ = init
