"""What the code's layout promises: rooms on floors, and imports that go down and never in a circle.

A room is a folder of rnnopt/. It may import itself and what is on a floor below; rooms of one floor
do not know each other. Imports within functions count, those for type checkers do not.
"""

import ast
import graphlib
import itertools
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import rnnopt

PACKAGE = Path(rnnopt.__file__).parent
FLOORS = [
    {"cli"},
    {"experiments"},
    {"estimator", "report"},
    {"runs"},
    {"diagnostics"},
    {"training"},
    {"admm", "optimizers", "tasks"},
    {"config"},
    {"layers"},
    {"distributed"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ROOMS = FLOOR_OF.keys() - {"distributed"}
ENTRANCES = {"__init__", "__main__"}  # above all floors


def module_of(file: Path) -> str:
    """The name to import a file by."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


@cache
def modules() -> dict[str, Path]:
    """The package's files by the name to import them by."""
    return {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """What is below a node, without what stands under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from statements(child)


def names_imported(file: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of the package's own."""
    for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                found = [f"{origin}.{alias.name}" for alias in names]
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"{file}:{node.lineno}: a relative import")
            case ast.Call(func=ast.Name(id="import_module"), args=[ast.Constant(value=str(name))]):
                found = [name]
            case _:
                found = []
        yield from ((node.lineno, name) for name in found if name.split(".")[0] == "rnnopt")


@cache
def imports() -> dict[str, dict[str, int]]:
    """What each file imports of the package: {file: {imported file: line}}.

    A public name stands for the file that it comes from, another name for the file that has it.
    """
    found: dict[str, dict[str, int]] = {}
    for module, file in modules().items():
        found[module] = {}
        for line, name in names_imported(file):
            parts = name.split(".")
            if len(parts) == 2 and parts[1] in rnnopt.PLACES:
                name = f"rnnopt.{rnnopt.PLACES[parts[1]]}"
            target = name if name in modules() else name.rpartition(".")[0]
            if target not in ("rnnopt", module):  # the version is all that the entrance has itself
                found[module].setdefault(target, line)
    return found


def room_of(module: str) -> str:
    """The room that a file is in."""
    return module.split(".")[1] if "." in module else "__init__"


def place(module: str, line: int) -> str:
    """Where an import stands."""
    return f"{modules()[module].relative_to(PACKAGE.parent)}:{line}"


def test_there_are_at_most_twelve_rooms_on_ten_floors_and_each_has_its_place():
    folders = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    loose = {p.stem for p in PACKAGE.glob("*.py")}
    assert folders == ROOMS
    assert loose == ENTRANCES | {"distributed"}
    assert len(ROOMS) <= 12
    assert len(FLOORS) <= 10


def test_imports_go_down_never_up():
    upwards = []
    for module, found in imports().items():
        room = room_of(module)
        if room in ENTRANCES:
            continue
        for target, line in found.items():
            other = room_of(target)
            if other != room and FLOOR_OF[other] <= FLOOR_OF[room]:
                upwards.append(f"{place(module, line)}: {room} imports {target}")
    assert upwards == [], "\n" + "\n".join(upwards)


def test_no_imports_go_in_a_circle():
    left = {module: dict(found) for module, found in imports().items()}
    circles = []
    while True:
        try:
            graphlib.TopologicalSorter(left).prepare()
            break
        except graphlib.CycleError as error:
            circle = error.args[1][::-1]  # each imports the next
            pairs = itertools.pairwise(circle)
            circles.append(" → ".join(place(m, left[m][t]) for m, t in pairs) + f" → {circle[-1]}")
            del left[circle[0]][circle[1]]  # to find the others
    assert circles == [], "\n" + "\n".join(circles)


def test_every_room_says_what_it_is_for():
    silent = []
    for room in sorted(ROOMS):
        file = PACKAGE / room / "__init__.py"
        text = ast.get_docstring(ast.parse(file.read_text())) if file.exists() else None
        if not text or not 2 <= len(text.splitlines()) <= 6:
            silent.append(f"{file.relative_to(PACKAGE.parent)}: {text!r}")
    assert silent == [], "\n" + "\n".join(silent)


@pytest.mark.parametrize("old", sorted(rnnopt.MOVED))
def test_a_module_imports_under_its_old_name_with_a_warning(old, monkeypatch):
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {rnnopt.MOVED[old]}"):
        module = import_module(old)
    assert module is import_module(rnnopt.MOVED[old])
