"""Which files an input names, and what is written for each."""

from pathlib import Path

import pytest

from segunet.data.inputs import find_inputs, is_video, output_names
from segunet.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/er/c.tif", "clip.mp4", "notes.txt", "out/masks/b.png", "[odd] a=b.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def found(given: Path | str, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_inputs(str(given), leave_out=[folder / "out"])]


def test_a_folder_is_all_pictures_and_videos_below_it_but_not_its_results(folder: Path) -> None:
    assert found(folder, folder) == ["[odd] a=b.jpg", "a.PNG", "b.jpg", "clip.mp4", "deep/er/c.tif"]


def test_a_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(f"{folder}/*.jpg", folder) == ["[odd] a=b.jpg", "b.jpg"]
    assert found(f"{folder}/**/*.tif", folder) == ["deep/er/c.tif"]
    monkeypatch.chdir(folder)
    assert find_inputs("deep/**/*.tif", [folder / "out"]) == [Path("deep/er/c.tif")]


def test_a_file_is_taken_whatever_its_suffix_and_its_signs(folder: Path) -> None:
    assert found(folder / "notes.txt", folder) == ["notes.txt"]
    assert found(folder / "[odd] a=b.jpg", folder) == ["[odd] a=b.jpg"]


@pytest.mark.parametrize("given", ["nothing.jpg", "*.gif", "notes.*"])
def test_nothing_to_predict_is_said(given: str, folder: Path) -> None:
    with pytest.raises(UserError, match="input="):
        find_inputs(f"{folder}/{given}", [folder / "out"])


def test_names_are_paths_below_the_common_folder(folder: Path) -> None:
    names = output_names([folder / "b.jpg", folder / "deep/er/c.tif"])
    assert list(names.values()) == ["b", "deep/er/c"]
    assert list(output_names([folder / "deep/er/c.tif"]).values()) == ["c"]


def test_two_inputs_of_one_name_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"b\.jpg and .*b\.png would both"):
        output_names([folder / "b.jpg", folder / "b.png"])


def test_a_video_is_known_by_its_suffix() -> None:
    assert is_video(Path("a.MP4"))
    assert not is_video(Path("a.jpg"))
