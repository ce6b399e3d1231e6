"""torchvision can be imported beside a CPU-only torch, once and from many threads."""

import importlib
import subprocess
import sys

from app.engine import torchvision_cpu
from tests.conftest import ROOT


def run(code: str) -> str:
    """What a fresh process prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_torchvisions_transforms_work_on_a_picture() -> None:
    code = """
from app.engine import torchvision_cpu
torchvision_cpu.prepare()
torchvision_cpu.prepare()
import torch, torchvision
from torchvision.transforms.v2 import functional
print(list(functional.resize(torch.zeros(3, 8, 8), [4, 2]).shape))
"""
    assert run(code) == "[3, 4, 2]"


def test_models_that_load_at_the_same_time_prepare_once() -> None:
    # Each thread that comes to declare the operators waits a moment for the other one to come as well.
    code = """
import threading
import torch
from app.engine import torchvision_cpu
both, errors, library = threading.Barrier(2), [], torch.library.Library
def declare(*arguments):
    try:
        both.wait(0.5)
    except threading.BrokenBarrierError:
        pass
    return library(*arguments)
torch.library.Library = declare
def prepare():
    try:
        torchvision_cpu.prepare()
    except BaseException as error:
        errors.append(str(error))
threads = [threading.Thread(target=prepare) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(errors), *errors)
"""
    assert run(code) == "0"


def test_preparing_again_changes_nothing() -> None:
    for _ in range(3):
        torchvision_cpu.prepare()
    assert importlib.import_module("torchvision").ops is not None
