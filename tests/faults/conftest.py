"""A server whose models fail in all known ways."""

import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests import tiny_models
from tests.conftest import Server, running

FAULTS = '''

_generate = {name}.generate


def _faulty(self, *args, **options):
    """Fails as the number of tokens asked for says: 77 at once, 78 after three, 79 out of memory, 80 NaN,
    81 with a device that is lost.
    """
    asked = options["generation_config"].max_new_tokens
    seen = []

    def processor(input_ids, scores):
        seen.append(1)
        if asked == 77 or (asked == 78 and len(seen) > 3):
            raise RuntimeError('a "quoted"\\nsecret with \\u2028 in /some/path')
        if asked == 79:
            raise torch.OutOfMemoryError("no memory")
        if asked == 81:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return scores * float("nan") if asked == 80 else scores

    options["logits_processor"] = [processor, *options["logits_processor"]]
    return _generate(self, *args, **options)


{name}.generate = _faulty
'''


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[[str], pathlib.Path]) -> Iterator[Server]:
    """A server whose default model fails on demand, and whose other models are broken in all known ways."""
    folder = tmp_path_factory.mktemp("faulty")
    model = shutil.copytree(tiny("sail_vl2"), folder / "faulty")
    code = model / "modeling_sailvl.py"
    names = [
        line.split("(")[0].removeprefix("class ")
        for line in code.read_text().splitlines()
        if "PreTrainedModel)" in line
    ]
    code.write_text(code.read_text() + FAULTS.format(name=names[-1]))
    entries: list[dict[str, Any]] = [
        {"id": "faulty", "source": str(model), "trust_remote_code": True, "modalities": ["text", "image"]},
        {"id": "missing", "source": str(folder / "nowhere")},
        {"id": "not-allowed", "source": str(tiny("sail_vl2")), "modalities": ["text", "image"]},
    ]
    for how in tiny_models.WAYS_TO_BREAK:
        broken = shutil.copytree(tiny("qwen2"), folder / how)
        tiny_models.break_folder(broken, how)
        entries.append({"id": how, "source": str(broken)})
    catalog = folder / "catalog.yaml"
    catalog.write_text(yaml.safe_dump({"models": entries}))
    marker = folder / "marker"
    env = {tiny_models.MARKER_VARIABLE: str(marker)}
    with running(
        folder, "--catalog", str(catalog), "--model", "faulty", "--max-concurrent", "8", env=env
    ) as server:
        yield server
