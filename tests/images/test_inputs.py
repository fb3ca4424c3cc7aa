"""Which files an input names, and what is written for each."""

import time
from pathlib import Path

import pytest

from segunet.base.errors import UserError
from segunet.images.inputs import find_inputs, is_video, output_names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "a.PNG", "deep/er/c.tif", "clip.mp4", "notes.txt", "out/masks/b.png", "[odd] a=b.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def found(given: Path | str, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_inputs(str(given), leave_out=[folder / "out"])]


def test_a_folder_is_all_images_and_videos_below_it_but_not_its_results(folder: Path) -> None:
    assert found(folder, folder) == ["[odd] a=b.jpg", "a.PNG", "b.jpg", "clip.mp4", "deep/er/c.tif"]


def test_a_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(f"{folder}/*.jpg", folder) == ["[odd] a=b.jpg", "b.jpg"]
    assert found(f"{folder}/**/*.tif", folder) == ["deep/er/c.tif"]
    monkeypatch.chdir(folder)
    assert find_inputs("deep/**/*.tif", [folder / "out"]) == [Path("deep/er/c.tif")]


def test_a_file_is_taken_whatever_its_suffix_and_its_signs(folder: Path) -> None:
    assert found(folder / "notes.txt", folder) == ["notes.txt"]
    assert found(folder / "[odd] a=b.jpg", folder) == ["[odd] a=b.jpg"]


def test_linked_folders_are_followed_and_no_loop_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other_disk").mkdir()
    (tmp_path / "other_disk" / "d.jpg").touch()
    for link, target in (("linked", tmp_path / "other_disk"), ("loop", folder), ("deep/loop", folder / "deep")):
        (folder / link).symlink_to(target)
    for given in (folder, f"{folder}/**/*.*", f"{folder}/**/**/*"):
        everything = ["[odd] a=b.jpg", "a.PNG", "b.jpg", "clip.mp4", "deep/er/c.tif", "linked/d.jpg"]
        assert found(given, folder) == everything, given
    assert found(f"{folder}/linked/*.jpg", folder) == ["linked/d.jpg"]


@pytest.mark.parametrize("given", ["nothing.jpg", "*.gif", "notes.*"])
def test_nothing_to_predict_is_said(given: str, folder: Path) -> None:
    with pytest.raises(UserError, match="input="):
        find_inputs(f"{folder}/{given}", [folder / "out"])


def test_names_are_paths_below_the_common_folder(folder: Path) -> None:
    names = output_names([folder / "b.jpg", folder / "deep/er/c.tif"])
    assert list(names.values()) == ["b", "deep/er/c"]
    assert list(output_names([folder / "deep/er/c.tif"]).values()) == ["c"]


def test_names_keep_the_suffix_where_nothing_else_tells_them_apart(folder: Path) -> None:
    names = output_names([folder / name for name in ("a.jpg", "b.jpg", "b.png", "b.mov", "c.mov", "c.avi")])
    assert list(names.values()) == ["a", "b.jpg", "b.png", "b", "c.mov", "c.avi"]
    with pytest.raises(UserError, match=r"b\.jpg and .*b\.jpg\.jpg would both be written as b\.jpg"):
        output_names([folder / name for name in ("b.jpg", "b.png", "b.jpg.jpg")])


def test_many_files_are_looked_up_at_once(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"{number}.{'jpg' if number % 2 else 'txt'}").touch()

    def seconds() -> float:
        began = time.process_time()
        assert len(find_inputs(str(tmp_path), [])) == 1500
        return time.process_time() - began

    assert min(seconds() for _ in range(3)) < 1  # of three, as other programs disturb


def test_a_video_is_known_by_its_suffix() -> None:
    assert is_video(Path("a.MP4"))
    assert not is_video(Path("a.jpg"))
