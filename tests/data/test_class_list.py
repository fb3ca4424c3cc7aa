"""Class names from the files of annotation tools."""

from pathlib import Path
from typing import Any

import pytest

from segunet.base.errors import UserError
from segunet.data.class_list import read_class_list
from segunet.training import build
from tests.cli.test_own_files import config_of

LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\nvoid:1,2,3::\n\ncar:0,0,142:a,b:c\n"
COLOURS = {"palette": [[0, 0, 0], [128, 64, 128], [0, 0, 142]], "ignore_color": [1, 2, 3]}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("background\n  road \n\ncar", {"class_names": ["background", "road", "car"]}),
        ("\ufeffbackground\r\nroad: wet\r\n", {"class_names": ["background", "road: wet"]}),
        (LABELMAP, {"class_names": ["background", "road", "car"], **COLOURS}),
        (
            "a:b:1,2,3::\nc:4,5,6::",
            {"class_names": ["a:b", "c"], "palette": [[1, 2, 3], [4, 5, 6]]},
        ),
    ],
)
def test_both_formats_are_read(tmp_path: Path, text: str, wanted: dict[str, Any]) -> None:
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert read_class_list(tmp_path / "list.txt") == wanted


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"\xff\xfe", "cannot be read as a class list"),
        (b"a\n" * 100_000, "it has more than 100,000 bytes"),
        (b"# label:color_rgb:parts:actions\nroad:1,2::\n", "'road:1,2::' is not a line of a labelmap.txt"),
        (b"road:1,2,256::\n", "is not a line of a labelmap.txt"),
        (b"road:1,2,3::\nroad:1,2,4::\n", "has 'road' twice"),
        (b"void:1,2,3::\nignore:1,2,4::\n", "has both void and ignore"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_class_list(tmp_path / "list.txt")


def test_a_class_list_is_given_on_the_command_line_or_in_a_data_set_s_file(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    data = ["data=custom", "data.root=."]
    typed = config_of("data.ignore_color=[9,9,9]", *data, f"data.class_names={tmp_path / 'labelmap.txt'}")
    assert list(typed.data.class_names) == ["background", "road", "car"]
    assert typed.model.num_classes == 3
    assert [list(colour) for colour in typed.data.palette] == COLOURS["palette"]
    assert list(typed.data.ignore_color) == [9, 9, 9]
    (tmp_path / "mine.yaml").write_text(
        "root: .\nclass_names: labelmap.txt\npalette: [[1, 1, 1], [2, 2, 2], [3, 3, 3]]\n"
    )
    cfg = config_of(f"data={tmp_path / 'mine.yaml'}")
    assert list(cfg.data.class_names) == ["background", "road", "car"]
    assert build.datamodule_from_config(cfg).form.palette[:3].tolist() == [[1, 1, 1], [2, 2, 2], [3, 3, 3]]
    assert list(cfg.data.ignore_color) == [1, 2, 3]
    (tmp_path / "recipe.yaml").write_text(
        "defaults: [override /data: custom]\ndata: {root: ., class_names: labelmap.txt}\n"
    )
    assert list(config_of(f"experiment={tmp_path / 'recipe.yaml'}").data.class_names) == ["background", "road", "car"]
