"""The floors of the house: who may import whom. Every import is read, wherever it stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "core" / "src" / "enginery"

FLOORS = [
    {"errors", "threads", "values"},
    {"lifecycle", "api", "enginecore"},
    {"hookspecs", "settings"},
    {"defaults", "importing", "plugins"},
    {"engine"},
    {"streaming"},
    {"coreserver", "gateway"},
    {"cli", "__main__"},
]
FLOOR = {part: number for number, floor in enumerate(FLOORS) for part in floor}
MAY_ALSO = {("plugins", "defaults")}
FACE = "enginery"
"""The package's own ``__init__`` shows names of all floors; only the top floor may ask it."""

PUBLIC = ("enginery", "enginery.api", "enginery.enginecore", "enginery.streaming")


def module_of(path: Path, source: Path) -> str:
    words = path.relative_to(source.parent).with_suffix("").parts
    return ".".join(words[:-1] if words[-1] == "__init__" else words)


def imports(path: Path, source: Path) -> Iterator[tuple[str, str | None]]:
    """(module, name) of each import in a file; the name is None for ``import module``."""
    module = module_of(path, source)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parent, *filter(None, [node.module])]) if node.level else node.module
            yield from ((str(base), alias.name) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), None


FILES = {module_of(path, SOURCE): path for path in sorted(SOURCE.rglob("*.py"))}


def ours(path: Path) -> set[str]:
    """The modules of this package that a file imports."""
    found = set()
    for module, name in imports(path, SOURCE):
        if module.partition(".")[0] == "enginery":
            full = f"{module}.{name}"
            found.add(full if full in FILES else module)
    return found


def part_of(module: str) -> str:
    return module.split(".")[1]


def test_every_file_has_its_floor() -> None:
    assert {part_of(module) for module in FILES if module != FACE} <= set(FLOOR)


@pytest.mark.parametrize("module", sorted(set(FILES) - {FACE}))
def test_a_file_imports_lower_floors_and_its_own_package(module) -> None:
    part = part_of(module)
    for imported in ours(FILES[module]):
        if imported == FACE:
            assert part == "cli", f"{module} imports the face of the package"
            continue
        other = part_of(imported)
        allowed = other == part or FLOOR[other] < FLOOR[part] or (part, other) in MAY_ALSO
        assert allowed, f"{module} (floor {FLOOR[part]}) imports {imported} (floor {FLOOR[other]})"


def test_no_file_imports_itself_by_a_detour() -> None:
    graph = {m: ours(path) - {m, FACE} for m, path in FILES.items() if m != FACE}
    # a package's __init__ shows what its modules hold; they import each other, not it
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_face_of_the_package_imports_only_values_and_errors_at_once() -> None:
    tree = ast.parse(FILES[FACE].read_text())
    at_once = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {m for m in at_once if m.startswith("enginery")} == {
        "enginery.errors",
        "enginery.values",
    }


PLUGIN_FILES = [
    (path, source)
    for source in sorted((ROOT / "plugins").glob("*/src/*"))
    if (source / "__init__.py").exists()
    for path in sorted(source.rglob("*.py"))
]


@pytest.mark.parametrize(
    ("path", "source"), PLUGIN_FILES, ids=[str(p.relative_to(ROOT)) for p, _ in PLUGIN_FILES]
)
def test_plugins_import_only_public_names(path, source) -> None:
    for module, name in imports(path, source):
        if module.partition(".")[0] != "enginery":
            continue
        public = any(module == p or module.startswith(p + ".") for p in PUBLIC[1:])
        assert module == "enginery" or public, f"{module} is not public"
        if name is not None:
            assert name in import_module(module).__all__, f"{module}.{name} is not public"
