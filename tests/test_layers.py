"""Imports point one way, heavy libraries stay in the files that own them, and nothing grows too long."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import selftaught
from builders import PACKAGE, output_of

LEVEL = {
    **dict.fromkeys(["records", "problems", "errors"], 0),
    **dict.fromkeys(
        [
            "answers",
            "choices",
            "quantities",
            "amounts",
            "signs",
            "lexicon",
            "scales",
            "statements",
            "formulas",
            "verification",
            "prompts",
            "selection",
            "methods",
            "checks",
            "plan",
            "seeds",
            "metrics",
            "misfits",
            "progress",
            "commands",
            "paths",
            "control_characters",
        ],
        1,
    ),
    **dict.fromkeys(
        [
            "settings",
            "config",
            "store",
            "tasks",
            "verifiers",
            "engines",
            "training",
            "weights",
            "model_config",
            "model_folder",
            "model_loading",
            "tokens",
            "scoring",
            "memory",
            "compute",
            "attention_kinds",
            "workers",
            "children",
        ],
        2,
    ),
    **dict.fromkeys(["sampling", "setup", "lineage", "summary", "stages", "loop", "evaluation", "launch"], 3),
    **dict.fromkeys(["cli", "__main__", "terminal", "report", "inspection", "dryrun", "task_check", "starter"], 4),
    **dict.fromkeys(["output", "tables"], 4),
}
"""docs/design.md, section 3. A module or package of the top level -> its layer."""

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "accelerate",
    "huggingface_hub",
    "matplotlib",
    "typer",
    "rich",
    "vllm",
    "ray",
    "wandb",
    "httpx2",
    "reasoning_gym",
    "pyarrow",
    "sympy",
    "numba",
    "llvmlite",
}

ALLOWED_AT_TOP = {
    **{f"engines/{name}.py": {"torch"} for name in ("token_sampling", "forward", "slot_batch")},
    **{f"engines/{name}.py": {"torch", "transformers"} for name in ("generate", "local", "slots")},
    **{f"engines/cpu/{name}.py": {"torch", "numba"} for name in ("__init__", "attention", "fused", "likeliest")},
    **{f"engines/cpu/{name}.py": {"numba", "llvmlite"} for name in ("vectors", "cache")},
    "engines/cpu/decoder.py": {"torch", "transformers"},
    "engines/cpu/packing.py": {"torch"},
    "training/models.py": {"torch", "transformers"},
    "training/micro_batches.py": {"torch"},
    "training/worker_gradients.py": {"torch"},
    "training/sft.py": {"torch", "transformers", "trl"},
    "training/rows.py": {"datasets"},
    "training/trl_trainer.py": {"torch", "trl"},
    "training/packed_attention.py": {"torch", "transformers"},
    "training/loss.py": {"torch"},
    "training/masters.py": {"torch"},
    "training/rounding.py": {"torch"},
    "engines/transport.py": {"httpx2"},
    "model_loading.py": {"torch", "transformers"},
    "scoring.py": {"torch"},
    **{f"verifiers/{name}.py": {"sympy"} for name in ("identity", "values", "meanings", "algebra")},
    "cli.py": {"typer", "rich"},
    "terminal.py": {"typer", "rich"},
    "tables.py": {"rich"},
}

SOURCES = sorted(PACKAGE.rglob("*.py"))

every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))


def layer_of(path: Path) -> int:
    """Of a source file; the package itself names the public API and belongs to the words."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return 0 if part == "__init__" else LEVEL[part]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that a piece of code imports, at its top and inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_on_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: no function bodies, nothing for the type checker alone."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        waiting += [
            s for child in ast.iter_child_nodes(node) if isinstance(child, ast.ExceptHandler) for s in child.body
        ]


def test_every_module_has_its_layer() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES} - {"__init__"}
    assert parts <= set(LEVEL), "add the new module to LEVEL, where docs/design.md puts it"


@every_source
def test_imports_only_from_its_own_layer_or_below(path: Path) -> None:
    for name in imported_modules(parsed(path)):
        parts = name.split(".")
        if parts[0] == "selftaught" and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= layer_of(path), f"{path.name} must not import {name}"


def test_the_words_import_no_library() -> None:
    allowed = {"collections", "dataclasses", "enum", "pathlib", "typing", "selftaught"}
    for name in ("records.py", "problems.py", "errors.py"):
        assert {module.split(".")[0] for module in imported_modules(parsed(PACKAGE / name))} <= allowed


@every_source
def test_heavy_libraries_are_imported_at_the_top_only_by_the_files_that_own_them(path: Path) -> None:
    allowed = ALLOWED_AT_TOP.get(str(path.relative_to(PACKAGE)), set())
    at_top = {
        name.split(".")[0]
        for node in run_on_import(parsed(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported_modules(node)
    }
    assert at_top & HEAVY <= allowed


def test_the_files_that_own_heavy_libraries_exist_and_use_them() -> None:
    for name, libraries in ALLOWED_AT_TOP.items():
        imported = {module.split(".")[0] for module in imported_modules(parsed(PACKAGE / name))}
        assert imported & libraries, f"{name} uses none of {libraries}: take it off the list"


@pytest.mark.parametrize(
    "module", ["selftaught", "selftaught.loop", "selftaught.config", "selftaught.launch", "selftaught.report"]
)
def test_importing_does_not_import_heavy_libraries(module: str) -> None:
    loaded = output_of(f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))")
    assert loaded == ""


def test_the_command_line_imports_neither_torch_nor_what_comes_with_it() -> None:
    loaded = output_of(f"import sys, selftaught.cli; print(*sorted({HEAVY - {'typer', 'rich'}!r} & set(sys.modules)))")
    assert loaded == ""


def test_all_lists_exactly_the_public_names_in_order() -> None:
    public = [
        name
        for name, value in vars(selftaught).items()
        if not inspect.ismodule(value) and (not name.startswith("_") or name == "__version__")
    ]
    assert selftaught.__all__ == sorted(public)


@every_source
def test_a_file_has_fewer_than_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 400


@every_source
def test_a_function_has_fewer_than_80_lines(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            assert node.end_lineno - node.lineno + 1 < 80, f"{node.name} is too long"


@every_source
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


@every_source
def test_model_text_is_never_run(path: Path) -> None:
    called = {
        node.func.id
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}
    picklers = {name.split(".")[0] for name in imported_modules(parsed(path))} & {"pickle", "marshal", "shelve", "dill"}
    # Machine code of our own kernels, in the user's own cache folder, is the one thing that is pickled.
    assert not picklers or path.relative_to(PACKAGE) == Path("engines/cpu/cache.py")
