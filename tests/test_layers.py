"""Imports point one way, heavy libraries stay in the files that own them, and nothing grows too long."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import selftaught
from builders import PACKAGE, output_of

ROOMS = (
    "records",
    "machine",
    "prompts",
    "grading",
    "models",
    "runs",
    "tasks",
    "engines",
    "training",
    "methods",
    "config",
    "stages",
    "loop",
    "report",
    "tracking",
    "comparison",
    "commands",
    "cli",
)
"""docs/design.md, section 3: a room imports from itself and from rooms before it."""

APART = {("training", "engines")}
"""Rooms that do not know each other, although the order would allow it."""

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
    "trackio",
    "tensorboard",
    "httpx2",
    "reasoning_gym",
    "pyarrow",
    "sympy",
    "numba",
    "llvmlite",
    "scipy",
    "starlette",
    "uvicorn",
}

ALLOWED_AT_TOP = {
    **{f"engines/local/{name}.py": {"torch"} for name in ("token_sampling", "forward", "slot_batch")},
    **{f"engines/local/{name}.py": {"torch", "transformers"} for name in ("generate", "engine", "slots")},
    **{f"engines/local/cpu/{name}.py": {"torch", "numba"} for name in ("__init__", "attention", "fused", "likeliest")},
    **{f"engines/local/cpu/{name}.py": {"numba", "llvmlite"} for name in ("vectors", "cache")},
    "engines/local/cpu/decoder.py": {"torch", "transformers"},
    "engines/local/cpu/packing.py": {"torch"},
    "training/models.py": {"torch", "transformers"},
    "training/micro_batches.py": {"torch"},
    "training/worker_gradients.py": {"torch"},
    "training/sft.py": {"torch", "transformers"},
    "training/trl.py": {"transformers", "trl"},
    "training/rows.py": {"datasets"},
    "training/trl_trainer.py": {"torch"},
    "training/packed_attention.py": {"torch", "transformers"},
    "training/loss.py": {"torch"},
    "training/masters.py": {"torch"},
    "training/ranks.py": {"torch"},
    "training/ray_rank_process.py": {"ray"},
    "training/ray_ranks.py": {"ray"},
    "models/rounding.py": {"torch"},
    "engines/server/transport.py": {"httpx2"},
    "models/loading.py": {"torch", "transformers"},
    "models/merging.py": {"torch", "transformers"},
    "models/scoring.py": {"torch"},
    **{f"grading/verifiers/{name}.py": {"sympy"} for name in ("identity", "values", "meanings", "algebra")},
    "cli/app.py": {"typer"},
    "cli/compare.py": {"typer"},
    "cli/doctor.py": {"typer"},
    "cli/export.py": {"typer"},
    "cli/predict.py": {"typer"},
    "cli/run.py": {"typer"},
    "cli/score.py": {"typer"},
    "cli/track.py": {"typer"},
    "cli/view.py": {"typer"},
    "tracking/terminal.py": {"typer", "rich"},
    **{f"tracking/{name}.py": {name} for name in ("wandb", "trackio", "tensorboard")},
    "machine/ray_actors.py": {"ray"},
    "machine/ray_cluster.py": {"ray"},
    "stages/workers/ray_workers.py": {"ray"},
    "report/tables.py": {"rich"},
    "comparison/statistics.py": {"scipy"},
    "report/web/server.py": {"starlette"},
}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@dataclass(frozen=True)
class Source:
    """All that is asked of a file, so that each is parsed once and no tree is kept."""

    lines: int
    docstring: str | None
    imported: frozenset[str]
    """Dotted names of everything that it imports, at its top and inside functions."""
    at_top: frozenset[str]
    """The libraries that it imports when it is imported itself."""
    functions: tuple[tuple[str, int], ...]
    """Names and numbers of lines."""
    called: frozenset[str]


@cache
def source(path: Path) -> Source:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    calls = (node.func for node in nodes if isinstance(node, ast.Call))
    return Source(
        lines=len(text.splitlines()),
        docstring=ast.get_docstring(tree),
        imported=frozenset(imported_modules(tree)),
        at_top=frozenset(
            name.split(".")[0]
            for node in run_on_import(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imported_modules(node)
        ),
        functions=tuple((node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions),
        called=frozenset(called.id for called in calls if isinstance(called, ast.Name)),
    )


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


def modules_that(path: Path) -> Iterator[str]:
    """The modules of the package that a source file names in an import, at its top or in a function."""
    for name in source(path).imported:
        module = name.removeprefix("selftaught.")
        if module != name:
            while module and not any(is_module(PACKAGE / module.replace(".", "/"))):
                module = module.rpartition(".")[0]
            if module:
                yield module


def is_module(path: Path) -> Iterator[bool]:
    yield path.with_suffix(".py").exists()
    yield (path / "__init__.py").exists()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def test_the_top_floor_has_the_rooms_of_the_list_and_at_most_18() -> None:
    assert {room_of(path) for path in SOURCES} - {"__init__", "__main__"} == set(ROOMS)
    assert len(ROOMS) <= 18


# A test is of all files at once and lists those that break its rule; one for each file would take ten times longer.


def test_a_room_imports_only_from_itself_and_from_rooms_before_it() -> None:
    def is_allowed(room: str, other: str) -> bool:
        return ROOMS.index(other) <= ROOMS.index(room) and (room, other) not in APART

    rooms = {path: room_of(path) for path in SOURCES if room_of(path) not in ("__init__", "__main__")}
    assert not [
        f"{path} must not import {module}"
        for path, room in rooms.items()
        for module in modules_that(path)
        if not is_allowed(room, module.partition(".")[0])
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {module_of(path): set(modules_that(path)) - {module_of(path)} for path in SOURCES}
    while leaves := [module for module, others in imports.items() if not others & imports.keys()]:
        for module in leaves:
            del imports[module]
    assert not imports, "these modules import each other in a circle, or import such modules"


WORDS = ("problems.py", "samples.py", "training.py", "measurements.py", "errors.py")


@pytest.mark.parametrize("name", WORDS)
def test_the_words_import_no_library(name: str) -> None:
    allowed = {"collections", "dataclasses", "enum", "pathlib", "sys", "typing", "selftaught"}
    assert {module.split(".")[0] for module in source(PACKAGE / "records" / name).imported} <= allowed


def test_heavy_libraries_are_imported_at_the_top_only_by_the_files_that_own_them() -> None:
    assert not [
        f"{path} must not import {library} at its top"
        for path in SOURCES
        for library in source(path).at_top & HEAVY
        if library not in ALLOWED_AT_TOP.get(str(path.relative_to(PACKAGE)), set())
    ]


def test_the_files_that_own_heavy_libraries_exist_and_use_them() -> None:
    for name, libraries in ALLOWED_AT_TOP.items():
        imported = {module.split(".")[0] for module in source(PACKAGE / name).imported}
        assert imported & libraries, f"{name} uses none of {libraries}: take it off the list"


def test_importing_does_not_import_heavy_libraries() -> None:
    modules = "selftaught, selftaught.loop, selftaught.config.loading, selftaught.commands.run, selftaught.report"
    loaded = output_of(f"import sys, {modules}; print(*sorted({HEAVY!r} & set(sys.modules)))")
    assert loaded == ""


def test_the_command_line_imports_neither_torch_nor_what_comes_with_it() -> None:
    loaded = output_of(
        f"import sys, selftaught.cli.app; print(*sorted({HEAVY - {'typer', 'rich'}!r} & set(sys.modules)))"
    )
    assert loaded == ""


def test_all_lists_exactly_the_public_names_in_order() -> None:
    public = {
        name
        for name, value in vars(selftaught).items()
        if not inspect.ismodule(value) and (not name.startswith("_") or name == "__version__")
    }
    assert selftaught.__all__ == sorted(public | selftaught._LATER.keys())
    assert set(selftaught.__all__) <= set(dir(selftaught))


@pytest.mark.parametrize("name", selftaught.__all__)
def test_every_public_name_is_there_and_where_the_table_says(name: str) -> None:
    value = getattr(selftaught, name)
    if name in selftaught._LATER:
        assert value.__module__ == selftaught._LATER[name]
        assert value.__name__ == name


def test_a_name_that_is_not_public_is_an_error_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match="'selftaught' has no attribute 'no_such_name'"):
        _ = selftaught.no_such_name


def test_a_file_has_fewer_than_400_lines() -> None:
    assert not [path for path in SOURCES if source(path).lines >= 400]


def test_a_function_has_fewer_than_80_lines() -> None:
    assert not [(path, name) for path in SOURCES for name, lines in source(path).functions if lines >= 80]


def test_a_file_says_what_it_is_for() -> None:
    assert not [path for path in SOURCES if not source(path).docstring]


def test_model_text_is_never_run() -> None:
    assert not [path for path in SOURCES if source(path).called & {"eval", "exec", "compile", "__import__"}]
    picklers = {"pickle", "marshal", "shelve", "dill"}
    pickling = [path for path in SOURCES if {name.split(".")[0] for name in source(path).imported} & picklers]
    # Machine code of our own kernels, in the user's own cache folder, is the one thing that is pickled.
    assert pickling == [PACKAGE / "engines/local/cpu/cache.py"]
