"""The README's commands, read from the README: every one is taken as it is written, the quick ones are run."""

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import segunet
from segunet.cli.overrides import check_command_line, with_name, with_recipe
from segunet.data.voc import list_pairs
from segunet.formats.write import FORMATS
from tests.commands import Command

README = Path(__file__).parent.parent / "README.md"
_PROGRAM = "python -m segunet."


def blocks() -> list[str]:
    """Return the README's indented blocks."""
    return re.findall(r"(?:^    .+\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)


def commands() -> list[list[str]]:
    """Return the command lines of the blocks, each as its words; of optional parts and of choices, each one once."""
    lines = [line for block in blocks() for line in block.replace("\n" + 31 * " ", " ").splitlines()]
    typed = [line.split("  #")[0].strip() for line in lines if line.strip().startswith(_PROGRAM)]
    return [words for line in typed for words in alternatives(line)]


def alternatives(line: str) -> list[list[str]]:
    """Return the words of a command line, once for each of its choices ``a|b``."""
    words = shlex.split(re.sub(r"(?<!')\[([^\]']*)\](?!')", r"\1", line.removeprefix(_PROGRAM)).replace(" | ", " "))
    together = [words[0], *(word.partition("|")[0] for word in words[1:] if "=" in word or word == "-m")]
    others = [
        [words[0], f"{word.partition('=')[0]}={choice}"]
        for word in words[1:]
        for choice in word.partition("=")[2].split("|")[1:]
    ]
    return [together, *others] if "source" not in line or words[0] != "summary" else others


def test_every_command_is_taken_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands()
    assert {words[0] for words in found} == {
        "train",
        "evaluate",
        "predict",
        "generate",
        "check_data",
        "import_labels",
        "report",
        "export",
        "summary",
        "convert",
    }
    assert len(found) > 20
    for name, *overrides in found:
        words = ["data=custom" if word.endswith(".yaml") else word for word in overrides]  # a file of the user's
        monkeypatch.setattr(sys, "argv", with_recipe(name, with_name(name, [f"{name}.py", *words])))
        check_command_line(name)


def test_the_commands_on_a_checkpoint_run(run: Command, trained: Path, tmp_path: Path) -> None:
    checkpoint, image = trained / "checkpoints" / "best.ckpt", list_pairs(trained / "voc", "val")[0].image
    given = {"evaluate": [f"run_dir={tmp_path / 'e'}"], "predict": [f"input={image}", f"output={tmp_path / 'p'}"]}
    given |= {"export": [f"output={tmp_path / 'net.onnx'}", "images=1"], "summary": ["measure=false"]}
    for name, more in given.items():
        line = next(words for words in commands() if words[0] == name and len(words) > 1)
        own = [word for word in line[1:] if word.partition("=")[0] not in ("checkpoint", "input", "output", "data")]
        own = [word for word in own if not word.startswith(("data.", "format=", "source=", "compile="))]
        result = run(import_module(f"segunet.{name}"), f"checkpoint={checkpoint}", *own, *more)
        assert result.status == 0, (name, own, result.error)


def test_the_python_lines_run(trained: Path) -> None:
    (code,) = (block for block in blocks() if "import segunet" in block)
    image = list_pairs(trained / "voc", "val")[0].image
    code = code.replace("outputs/train/DATE_TIME", str(trained)).replace('"image.jpg"', f'"{image}"')
    names: dict[str, object] = {}
    exec(re.sub(r"^    ", "", code, flags=re.MULTILINE), names)
    assert isinstance(names["model"], segunet.Predictor)
    assert getattr(names["mask"], "shape", None) is not None


def test_the_loop_without_a_config_trains(voc_folder: Path) -> None:
    (code,) = (block for block in blocks() if "optimizer.step()" in block)
    assert len(code.splitlines()) <= 15
    smaller = {'"my_data"': f'"{voc_folder}"', "512": "64", "batch_size=8": "batch_size=3, num_workers=0"}
    for old, new in (smaller | {'50, weights="imagenet"': "18"}).items():
        assert old in code
        code = code.replace(old, new)
    names: dict[str, Any] = {}
    exec(re.sub(r"^    ", "", code, flags=re.MULTILINE), names)
    assert all(parameter.grad is not None for parameter in names["net"].parameters())


def test_every_format_is_named() -> None:
    assert "|".join(FORMATS) in README.read_text(encoding="utf-8")
