"""The layers: who imports whom, what stays out of the start, and how large a file may be."""

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "app").rglob("*.py"))
NAMES = [str(file.relative_to(ROOT)) for file in FILES]
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in zip(NAMES, FILES, strict=True)}

MAY_IMPORT = {
    "routes": {"routes", "schemas", "services"},
    "schemas": {"schemas", "engine.types", "engine.media_types"},
    "services": {"services", "engine", "media"},
    "media": {"media"},
    "engine": {"engine"},
    "client": {"flags"},
    "talk": {"client"},
    "terminal": {"client", "flags", "talk"},
    "bench": {"bench", "client", "flags", "talk"},
    "errors": set[str](),
    "flags": set[str](),
    "settings": {"flags"},
    "telemetry": set[str](),
    "metrics": set[str](),
}
FOR_ALL = {"errors", "settings", "telemetry", "metrics"}
ROOTS = {"app/__init__.py", "app/__main__.py"}
"""The composition root and the command line, which may import every layer."""
ONLY_IN: dict[str, set[str]] = {
    "flask": {"routes", "root"},
    "werkzeug": {"routes"},
    "marshmallow": {"schemas"},
    "apispec": {"schemas"},
    "prometheus_client": {"metrics", "services"},
    "requests": {"media"},
    "PIL": {"media", "bench"},
    "tqdm": {"bench"},
    "matplotlib": {"bench"},
    "av": {"media"},
    "torch": {"engine"},
    "transformers": {"engine"},
    "tokenizers": {"engine"},
    "huggingface_hub": {"engine"},
    "llguidance": {"engine"},
    "greenlet": {"engine"},
    "gunicorn": {"root", "routes"},
}
LAZY_FILES = {
    f"app/engine/{name}.py"
    for name in ("loader", "checkpoint", "progress", "torchvision_cpu", "remote_code", "stats")
}
EAGER_FILES = {
    f"app/engine/{name}.py"
    for name in (
        "attention", "attention_kernel", "batch", "cache", "cuda", "decoder", "embedding", "encode",
        "few_rows", "fitting", "generate", "grammar", "grammar_check", "grammar_process", "kernels", "linear",
        "pausing", "pieces", "processors", "row", "row_attention", "sampling", "step_kernel", "stream",
        "streamed", "submit", "tpu", "tpu_stream", "tpu_worker", "vision",
    )
}  # fmt: skip
TENSOR_MODULES = {"torch", "transformers", "tokenizers"}


def layer(name: str) -> str:
    """The package of a file, its own name at the top level, or root."""
    if name in ROOTS:
        return "root"
    return name.split("/")[1].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that are imported anywhere below; `from app.engine import x` counts as app.engine.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            yield from ([f"{module}.{alias.name}" for alias in node.names] if _is_ours(module) else [module])


def _is_ours(module: str) -> bool:
    """Whether names imported from it may be modules of this project."""
    return module == "app" or (module.startswith("app.") and (ROOT / module.replace(".", "/")).is_dir())


def at_start(tree: ast.Module) -> set[str]:
    """Top packages that are imported when the module is, outside of functions."""
    outside = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    ]
    return {name.partition(".")[0] for name in imports(ast.Module(outside, []))}


@functools.cache
def ours(name: str) -> set[str]:
    """Modules of the project that a file imports, without the leading app."""
    return {found.removeprefix("app.") for found in imports(TREES[name]) if found.split(".")[0] == "app"}


def test_a_broken_rule_would_be_seen() -> None:
    tree = ast.parse("from app.engine import loader\ndef f():\n    import torch.nn\nimport os")
    assert list(imports(tree)) == ["app.engine.loader", "os", "torch.nn"]
    assert at_start(tree) == {"app", "os"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - ROOTS))
def test_a_layer_imports_only_the_layers_below_it(name: str) -> None:
    allowed = MAY_IMPORT[layer(name)] | FOR_ALL
    wrong = {
        module
        for module in ours(name)
        if not any(module == one or module.startswith(f"{one}.") for one in allowed)
    }
    assert not wrong


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_only_by_its_layer(library: str) -> None:
    users = {name for name in NAMES if library in {found.split(".")[0] for found in imports(TREES[name])}}
    assert {name for name in users if layer(name) not in ONLY_IN[library]} == set()


def test_only_the_tensor_files_touch_torch_and_transformers() -> None:
    users = {
        name for name in NAMES if TENSOR_MODULES & {found.split(".")[0] for found in imports(TREES[name])}
    }
    assert users <= LAZY_FILES | EAGER_FILES


@pytest.mark.parametrize("name", sorted(LAZY_FILES))
def test_the_loader_imports_tensors_only_inside_functions(name: str) -> None:
    assert not at_start(TREES[name]) & TENSOR_MODULES


@pytest.mark.parametrize("name", sorted(set(NAMES) - LAZY_FILES - EAGER_FILES))
def test_tensor_files_are_imported_by_the_loader_and_each_other_alone(name: str) -> None:
    tensors = {file.removeprefix("app/").removesuffix(".py").replace("/", ".") for file in EAGER_FILES}
    assert not {module for module in ours(name) if any(f"{module}.".startswith(f"{one}.") for one in tensors)}


def test_starting_the_process_imports_neither_torch_nor_transformers() -> None:
    code = "import json, sys; import wsgi; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(json.loads(result.stdout.splitlines()[-1]))
    assert "app.engine.loader" in modules
    lazy = {
        *TENSOR_MODULES,
        "numpy",
        "huggingface_hub",
        "llguidance",
        "apispec",
        "flask_swagger_ui",
        "app.engine.generate",
        "app.engine.sampling",
    }
    assert not modules & lazy


def test_the_clients_start_without_the_servers_libraries() -> None:
    clients = "app.__main__, app.terminal, app.bench.command"
    code = f"import json, sys, {clients}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(json.loads(result.stdout))
    assert not modules & {
        *TENSOR_MODULES,
        "flask",
        "marshmallow",
        "yaml",
        "numpy",
        "PIL",
        "matplotlib",
        "tqdm",
    }


def test_there_are_no_cycles() -> None:
    modules = {name.removeprefix("app/").removesuffix(".py").replace("/", "."): name for name in NAMES}
    graph = {
        module: {
            other
            for other in modules
            for found in ours(name)
            if found == other or found.startswith(f"{other}.")
        }
        for module, name in modules.items()
    }
    while leaves := [module for module, below in graph.items() if not below]:
        for leaf in leaves:
            del graph[leaf]
        for below in graph.values():
            below.difference_update(leaves)
    assert not graph, f"in a cycle, or above one: {sorted(graph)}"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_short_and_named_for_its_subject(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= 350
    assert Path(name).stem not in {"utils", "util", "common", "helpers", "helper", "base", "misc"}


@pytest.mark.parametrize("name", NAMES)
def test_a_function_is_at_most_fifty_lines_long(name: str) -> None:
    long = {
        node.name: lines
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > 50
    }
    assert not long


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_runs_code_from_data_is_used(name: str) -> None:
    calls = {ast.unparse(node.func) for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)}
    assert not calls & {
        "eval",
        "exec",
        "torch.load",
        "yaml.load",
        "yaml.unsafe_load",
        "os.system",
        "__import__",
    }
    assert not {found.split(".")[0] for found in imports(TREES[name])} & {
        "pickle",
        "marshal",
        "shelve",
        "dill",
    }
