"""The house: a file imports only from its own floor and from lower ones; what lies at the top is a command."""

import ast
from collections.abc import Iterator
from pathlib import Path

import segunet

ROOT = Path(segunet.__file__).parent
FLOORS = (
    ("base",),
    ("models", "losses", "metrics", "images", "formats"),
    ("data", "cli"),
    ("inference",),
    ("training", "report", "cost", "demo"),
)
COMMANDS = {"train", "evaluate", "predict", "check_data", "import_labels", "export", "summary", "convert", "generate"}
COMMANDS |= {"benchmark"}


def floor_of(module: str) -> int:
    """Return the floor of ``segunet.<folder>...``, counted from 0; commands are on top."""
    folder = module.split(".")[1]
    return next((number for number, folders in enumerate(FLOORS) if folder in folders), len(FLOORS))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the modules of segunet that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("segunet"):
            yield from ([f"segunet.{each.name}" for each in node.names] if node.module == "segunet" else [node.module])
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.startswith("segunet."))


def test_no_file_imports_from_a_higher_floor() -> None:
    files = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    assert len(files) > 50
    for path in files:
        own = ".".join(["segunet", *path.relative_to(ROOT).with_suffix("").parts])
        for module in imports_of(path):
            assert floor_of(module) <= floor_of(own), f"{own} imports {module}"


def test_files_at_the_top_are_commands() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == COMMANDS | {"__init__", "__main__"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == {folder for floor in FLOORS for folder in floor}
