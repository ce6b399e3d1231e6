"""Let PyPI's torchvision, which is linked to CUDA, be imported beside a CPU-only torch.

Its compiled operators cannot be loaded there, and the import fails on the first one that it describes.
Declaring the operators' names beforehand is enough for all that is written in Python (transforms,
functional), which is what transformers' image and video processors use. With a CUDA build of torch, or where
torchvision works by itself, nothing is changed.
"""

import importlib.util
import pathlib
import re
import threading

_kept_alive: list[object] = []
_lock = threading.Lock()


def prepare() -> None:
    """Declare torchvision's operators if this torch has no CUDA; call it before transformers is imported."""
    with _lock:
        _declare()


def _declare() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if _kept_alive or spec is None or spec.origin is None or torch.version.cuda is not None:
        return
    package = pathlib.Path(spec.origin).parent
    if not _is_linked_to_cuda(package):
        return
    library = torch.library.Library("torchvision", "DEF")
    source = (package / "_meta_registrations.py").read_text(encoding="utf-8")
    for operator in sorted(set(re.findall(r'register_(?:fake|meta)\("(?:torchvision::)?(\w+)"', source))):
        library.define(f"{operator}(Tensor a) -> Tensor")
    _kept_alive.append(library)


def _is_linked_to_cuda(package: pathlib.Path) -> bool:
    version = (package / "version.py").read_text(encoding="utf-8")
    return re.search(r"^__version__ = '[^']*\+cu", version, re.MULTILINE) is not None
