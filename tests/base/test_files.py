"""Files that appear whole or not at all."""

import csv
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from segunet.base.errors import UserError
from segunet.base.files import (
    DRAFTS,
    draft_folder_beside,
    locked,
    read_whole,
    remove_abandoned,
    whole_file,
    write_csv,
    write_text,
)


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def write_half(path: Path, error: BaseException) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise error


def test_a_new_file_and_its_folders_appear(tmp_path: Path) -> None:
    path = tmp_path / "below" / "deeper" / "file.bin"
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"an older and longer content")
    write(tmp_path / "file.bin", b"new")
    assert (tmp_path / "file.bin").read_bytes() == b"new"


def test_a_file_is_read_whole_up_to_a_size(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    content = bytes(range(256)) * 2**13  # 2 MiB
    path.write_bytes(content)
    assert read_whole(path, len(content)) == content
    with pytest.raises(ValueError, match="it has more than 2,097,151 bytes"):
        read_whole(path, len(content) - 1)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read_whole(Path("/dev/zero"), 10)


def test_others_may_read_it(tmp_path: Path) -> None:
    write(tmp_path / "file.bin", b"")
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o644


def test_nothing_is_at_the_path_before_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("older", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_goes_on_and_leaves_the_older_file_alone(
    tmp_path: Path, older: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / "file.bin"
    if older is not None:
        path.write_bytes(older)
    with pytest.raises(error):
        write_half(path, error())
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({"file.bin": older} if older else {})


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("older", [None, b"old"])
@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_a_full_disk_is_the_user_s_error_and_leaves_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bytes | None, step: str
) -> None:
    path = tmp_path / "file.bin"
    if older is not None:
        path.write_bytes(older)
    monkeypatch.setattr(step, full_disk)
    with pytest.raises(UserError, match=rf"{path} could not be written: No space left on device\."):
        write(path, b"new")
    monkeypatch.undo()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == ({"file.bin": older} if older else {})


def test_a_disk_that_fills_up_in_the_middle_is_the_user_s_error(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="No space left on device"):
        write_half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]
    assert path.read_bytes() == b"old"


def test_a_really_full_device_is_the_user_s_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathlib.Path.open", lambda *_: os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb"))
    with pytest.raises(UserError, match="No space left on device"):
        write(tmp_path / "file.bin", b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_mode_of_the_user_s_mask_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "link.bin").symlink_to(tmp_path / "target.bin")
    mask = os.umask(0o077)
    try:
        write(tmp_path / "link.bin", b"new")
    finally:
        os.umask(mask)
    assert (tmp_path / "link.bin").is_symlink()
    assert (tmp_path / "target.bin").read_bytes() == b"new"
    assert (tmp_path / "target.bin").stat().st_mode & 0o777 == 0o600


def test_a_name_as_long_as_the_system_takes_it_can_be_written(tmp_path: Path) -> None:
    write(tmp_path / ("x" * 255), b"new")
    assert (tmp_path / ("x" * 255)).read_bytes() == b"new"


def test_a_text_may_hold_the_name_of_a_file_that_is_no_text(tmp_path: Path) -> None:
    write_text(tmp_path / "text", os.fsdecode(b"b\xe9st"))
    assert (tmp_path / "text").read_text() == "b?st"


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / ".mine-1").touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / ".segunet-link").symlink_to(tmp_path / "linked")
    code = "import sys, time; from pathlib import Path; from segunet.base.files import *\n"
    code += (
        "with whole_file(Path(sys.argv[1])), draft_folder_beside(Path(sys.argv[1])): print(flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "below" / "killed.bin")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with whole_file(tmp_path / "below" / "file.bin"), draft_folder_beside(tmp_path / "below" / "folder"):
        remove_abandoned(tmp_path.rglob(DRAFTS))
        assert len(list((tmp_path / "below").iterdir())) == 4  # this process goes on with its own, the other one too
        process.kill()
        process.wait()
        process.stdout.close()
        remove_abandoned(tmp_path.rglob(DRAFTS))
        assert len(list((tmp_path / "below").iterdir())) == 2
    left = [".mine-1", ".segunet-link", "below", "file.bin", "linked"]
    assert sorted(each.name for each in tmp_path.rglob("*")) == left


def test_a_run_s_folder_has_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segunet.base.files._LOCK_TIMEOUT", 0.2)
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(UserError, match=f"Another process is writing to {folder}"), locked(folder):
        pass
    with locked(folder):  # free again
        assert folder.is_dir()


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="run cannot be written"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_a_file_is_the_user_s_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below\.bin could not be written"):
        write(tmp_path / "file" / "below.bin", b"")


def test_a_user_error_of_the_body_is_passed_on_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^mine$"):
        write_half(tmp_path / "file.bin", UserError("mine"))
    assert list(tmp_path.iterdir()) == []


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    names = ["=HYPERLINK(1)", "+1+1", "-a", "@SUM(1)", "\t=1", "-1", "+1e-3", "a=b", "-inf"]
    write_csv(tmp_path / "table.csv", [{"name": name, "score": -0.5} for name in names])
    with (tmp_path / "table.csv").open(newline="") as file:
        cells = [row["name"] for row in csv.DictReader(file)]
    assert cells == [*(f"'{name}" for name in names[:5]), *names[5:]]
