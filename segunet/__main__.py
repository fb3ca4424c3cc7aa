"""The program ``segunet``: ``segunet train ...`` is ``python -m segunet.train ...``."""

import ast
import os
import runpy
import sys
from pathlib import Path

from segunet.base.errors import did_you_mean
from segunet.base.stopping import end_with_reader
from segunet.base.version import __version__
from segunet.cli.completion import completions

_FOLDER = Path(__file__).parent
_COMMANDS = [
    *("train", "evaluate", "predict", "report", "check_data", "import_labels"),
    *("export", "summary", "benchmark", "convert", "generate", "demo"),
]


def main() -> None:
    """Run the command that is named first, with the words after it."""
    name, *words = sys.argv[1:] or ["--help"]
    if name not in _COMMANDS:
        end_with_reader()
    if name in ("--help", "-h", "help"):
        print(help_text())
    elif name == "--complete":  # called by the shell
        line = os.environ.get("COMP_LINE", "")
        print("\n".join(completions(line[: int(os.environ.get("COMP_POINT", len(line)))], _COMMANDS)))
    elif name == "--version":
        print(f"segunet {__version__}")
    elif name in _COMMANDS:
        sys.argv[1:] = words
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):  # which python -m has, and a program of its own has not
            sys.path.insert(0, here)
        runpy.run_module(f"segunet.{name}", run_name="__main__", alter_sys=True)
    else:
        meant = did_you_mean(name.lstrip("-"), _COMMANDS)
        sys.exit(f"error: segunet has no command {name}.{meant} segunet --help lists them.")


def help_text() -> str:
    """Return a line for each command."""
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:{width}}  {first_line(name)}" for name in _COMMANDS]
    head = "segunet COMMAND [name=value] ...    (or python -m segunet.COMMAND)"
    feet = [
        "segunet COMMAND --help shows all of its settings; segunet --version shows the version.",
        "Completion in bash: complete -o nospace -o default -C 'segunet --complete' segunet",
    ]
    return "\n".join([head, "", *lines, "", *feet])


def first_line(name: str) -> str:
    """Return what a command does, from its file, without importing it."""
    file = next(path for path in (_FOLDER / f"{name}.py", _FOLDER / name / "__main__.py") if path.is_file())
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return f"{text.partition(':')[0]}."


if __name__ == "__main__":
    main()
