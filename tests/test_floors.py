"""The house: a file imports only from its own floor and from lower ones, the top has commands, and all are short."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

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


def body_length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body without its docstring."""
    documented = ast.get_docstring(function) is not None and len(function.body) > 1
    first = function.body[1 if documented else 0]
    assert function.end_lineno is not None
    return function.end_lineno - first.lineno + 1


def test_files_and_functions_are_short() -> None:
    lengths: dict[str, int] = {}
    for path in ROOT.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[f"{path}:{node.lineno} {node.name}"] = body_length(node)
    assert {name: length for name, length in lengths.items() if length > 35} == {}
    assert median(lengths.values()) <= 6
