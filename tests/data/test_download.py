"""Downloads from a real server on this machine, which can resume, cut, corrupt and refuse."""

import errno
import hashlib
import io
import os
import shutil
import sys
import tarfile
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from segunet import train
from segunet.base.errors import UserError
from segunet.base.files import locked
from segunet.cli.overrides import composed
from segunet.data import download
from segunet.data.download import download_sbd, download_voc2012, fetch
from segunet.images.palette import voc_palette
from segunet.training import build
from tests.commands import TINY, Command

TRAIN, VAL = ["2007_000001", "2007_000002"], ["2007_000003", "2007_000004"]
# SBD's own split crosses VOC's: its train holds an image of VOC's val, its val one of VOC's train.
SBD_TRAIN, SBD_VAL = ["2008_000011", VAL[0], TRAIN[0]], ["2008_000010", VAL[1], TRAIN[1]]
LISTS = "ImageSets/Segmentation"
DiskUsage = namedtuple("DiskUsage", "total used free")


@dataclass
class Server:
    """What is served, how it misbehaves, and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    cuts: int = 0  # how many responses to come stop half-way
    corrupt: bool = False
    wanted: list[str | None] = field(default_factory=list)  # the Range header of each request
    sent: list[int] = field(default_factory=list)  # the bytes of each response

    def serve(self, name: str, body: bytes) -> tuple[str, str]:
        """Serve ``body`` under ``name``; return its address and md5."""
        self.files[f"/{name}"] = body
        return f"{self.url}/{name}", hashlib.md5(body).hexdigest()

    def answer(self, path: str, wanted: str | None) -> tuple[int, dict[str, str], bytes]:
        body = self.files.get(path)
        if body is None:
            return 404, {}, b""
        if not (self.ranges and wanted):
            return 200, {}, body
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
        return 206, {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}, body[start:]

    def spoil(self, body: bytes) -> bytes:
        if self.corrupt:
            body = bytes(byte ^ 1 for byte in body)
        if self.cuts:
            self.cuts -= 1
            body = body[: len(body) // 2]
        return body


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = state.answer(self.path, self.headers["Range"])
            sent = state.spoil(body)
            state.wanted.append(self.headers["Range"])  # before the client can go on
            state.sent.append(len(sent))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_AFTER", (0.0, 0.0, 0.0))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_port}"
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def jpg(seed: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, format="JPEG")
    return file.getvalue()


def png(value: int) -> bytes:
    file = io.BytesIO()
    mask = Image.fromarray(np.full((8, 8), value, np.uint8))
    mask.putpalette(voc_palette().tobytes())
    mask.save(file, format="PNG")
    return file.getvalue()


def mat(value: int) -> bytes:
    file = io.BytesIO()
    labels = np.full((8, 8), value, np.uint8)
    savemat(file, {"GTcls": {"Segmentation": labels, "CategoriesPresent": value}})
    return file.getvalue()


def names(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return file.getvalue()


def voc_files() -> dict[str, bytes]:
    """A VOC2012 of four images; the one image of SBD that VOC's archive holds too is 2008_000010."""
    files = {f"{LISTS}/train.txt": names(*TRAIN), f"{LISTS}/val.txt": names(*VAL)}
    for seed, name in enumerate([*TRAIN, *VAL, "2008_000010"]):
        files[f"JPEGImages/{name}.jpg"] = jpg(seed)
    for name in TRAIN + VAL:
        files[f"SegmentationClass/{name}.png"] = png(1)
    return {f"VOCdevkit/VOC2012/{name}": body for name, body in files.items()}


def sbd_files() -> dict[str, bytes]:
    files = {"train.txt": names(*SBD_TRAIN), "val.txt": names(*SBD_VAL)}
    for seed, name in enumerate(SBD_TRAIN + SBD_VAL):
        files[f"img/{name}.jpg"] = jpg(100 + seed)
        files[f"cls/{name}.mat"] = mat(15)
    return {f"benchmark_RELEASE/dataset/{name}": body for name, body in files.items()}


@pytest.fixture
def voc(server: Server) -> tuple[str, str]:
    return server.serve("voc.tar", tar(voc_files()))


@pytest.fixture
def sbd(server: Server) -> tuple[str, str]:
    return server.serve("benchmark.tgz", tar(sbd_files(), "w:gz"))


@pytest.fixture
def voc_dir(tmp_path: Path) -> Path:
    """A complete VOC2012 folder."""
    with tarfile.open(fileobj=io.BytesIO(tar(voc_files()))) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "VOCdevkit" / "VOC2012"


def tree(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def message(error: pytest.ExceptionInfo[UserError]) -> str:
    return error.value.paragraph


# --- fetch: one file


BODY = np.random.default_rng(0).bytes(300_000)


def test_fresh_download_is_whole_and_quiet(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url, md5 = server.serve("file", BODY)
    fetch(url, tmp_path / "new" / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"new/file": BODY}
    assert server.wanted == [None]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_progress(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, md5 = server.serve("file", BODY)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    fetch(url, tmp_path / "shown-name", md5, "data.voc_url")
    shown = capsys.readouterr().out
    assert "shown-name" in shown
    assert "300.0/300.0 kB" in shown


def test_file_address(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(BODY)
    (tmp_path / "file.part").write_bytes(b"not its beginning")
    fetch((tmp_path / "source").as_uri(), tmp_path / "file", hashlib.md5(BODY).hexdigest(), "data.voc_url")
    assert (tmp_path / "file").read_bytes() == BODY


def test_resume_asks_for_the_rest_only(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    (tmp_path / "file.part").write_bytes(BODY[:200_000])
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.wanted == ["bytes=200000-"]
    assert server.sent == [100_000]


def test_resume_from_a_server_that_ignores_range_starts_again(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    server.ranges = False
    (tmp_path / "file.part").write_bytes(BODY[:200_000])
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.wanted == ["bytes=200000-"]
    assert server.sent == [300_000]


def test_a_whole_part_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    """Killed between the last byte and the rename: the server answers 416."""
    url, md5 = server.serve("file", BODY)
    (tmp_path / "file.part").write_bytes(BODY)
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.sent == [0]


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_twice_then_whole(server: Server, tmp_path: Path, ranges: bool) -> None:
    url, md5 = server.serve("file", BODY)
    server.cuts, server.ranges = 2, ranges
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.sent == ([150_000, 75_000, 75_000] if ranges else [150_000, 150_000, 300_000])


def test_always_cut_keeps_the_part_for_the_next_call(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    server.cuts = 1000
    with pytest.raises(UserError) as error:
        fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert "the transfer stopped after 281,250 of 300,000 bytes" in message(error)
    assert server.sent == [150_000, 75_000, 37_500, 18_750]
    assert tree(tmp_path) == {"file.part": BODY[:281_250]}
    server.cuts = 0
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.sent[4:] == [18_750]


def test_corrupt_bytes_are_deleted_and_the_next_call_starts_again(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    server.corrupt = True
    with pytest.raises(UserError) as error:
        fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert all(word in message(error) for word in (url, md5, "corrupt", "deleted", "data.voc_url="))
    assert tree(tmp_path) == {}
    server.corrupt = False
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}
    assert server.wanted == [None, None]


def test_right_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    (tmp_path / "file").write_bytes(BODY)
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert server.wanted == []


def test_wrong_file_placed_by_hand_is_named_and_left(server: Server, tmp_path: Path) -> None:
    url, md5 = server.serve("file", BODY)
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(UserError) as error:
        fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert str(tmp_path / "file") in message(error)
    assert tree(tmp_path) == {"file": b"mine"}
    assert server.wanted == []


def test_refusal_says_what_to_do_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/gone"
    with pytest.raises(UserError) as error:
        fetch(url, tmp_path / "file", "0" * 32, "data.voc_url")
    wanted = (url, "404", "often down", "data.voc_url=", "put the archive", str(tmp_path / "file"), "0" * 32)
    assert [word for word in wanted if word not in message(error)] == []
    assert server.wanted == [None]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/file", "voc.tar", "file:///nowhere/voc.tar"])
def test_address_that_cannot_answer(server: Server, tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match=r"data\.sbd_url=") as error:
        fetch(url, tmp_path / "file", "0" * 32, "data.sbd_url")
    assert url in message(error)
    assert tree(tmp_path) == {}
    assert server.wanted == []


def test_disk_must_hold_the_rest_and_what_is_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, md5 = server.serve("file", BODY)
    (tmp_path / "file.part").write_bytes(BODY[:200_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9, 399_999))
    with pytest.raises(UserError, match="free") as error:
        fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert str(tmp_path) in message(error)
    assert tree(tmp_path) == {"file.part": BODY[:200_000]}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9, 400_000))
    fetch(url, tmp_path / "file", md5, "data.voc_url")
    assert tree(tmp_path) == {"file": BODY}


# --- VOC2012


def test_defaults_are_the_published_archives() -> None:
    assert download.VOC_URL.endswith("VOCtrainval_11-May-2012.tar")
    assert download.VOC_MD5 == "6cd6e144f989b92b3379bac3b3de84fd"
    assert download.SBD_URL.endswith("benchmark.tgz")
    assert download.SBD_MD5 == "82b4d87ceb2ed10f6038a1cba92111cb"


def test_voc_is_fetched_and_unpacked_once(server: Server, voc: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "data"
    folder = download_voc2012(root, *voc)
    assert folder == root / "VOCdevkit" / "VOC2012"
    assert tree(root) == voc_files() | {download.VOC_ARCHIVE: server.files["/voc.tar"]}
    assert [path.name for path in folder.parent.iterdir()] == ["VOC2012"]
    (root / download.VOC_ARCHIVE).unlink()
    assert download_voc2012(root, *voc) == folder
    assert server.wanted == [None]


def test_complete_voc_makes_no_request(server: Server, voc: tuple[str, str], voc_dir: Path) -> None:
    assert download_voc2012(voc_dir.parents[1], *voc) == voc_dir
    assert server.wanted == []


def test_a_place_that_cannot_be_written_is_said(voc: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below cannot be written: Not a directory"):
        download_voc2012(tmp_path / "file" / "below", *voc)


def test_two_processes_do_not_download_into_one_folder(
    voc: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segunet.base.files._LOCK_TIMEOUT", 0.0)
    with locked(tmp_path), pytest.raises(UserError, match="Another process is writing to"):
        download_voc2012(tmp_path, *voc)
    assert download_voc2012(tmp_path, *voc).is_dir()


def test_what_another_process_completes_in_the_meantime_is_taken(
    voc: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def locked_after_another(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(download, "locked", locked)
        download_voc2012(folder, *voc)
        with locked(folder):
            yield

    monkeypatch.setattr(download, "locked", locked_after_another)
    assert download_voc2012(tmp_path, *voc) == tmp_path / "VOCdevkit" / "VOC2012"


def test_incomplete_voc_is_left_alone(server: Server, voc: tuple[str, str], voc_dir: Path) -> None:
    (voc_dir / LISTS / "val.txt").unlink()
    before = tree(voc_dir)
    with pytest.raises(UserError) as error:
        download_voc2012(voc_dir.parents[1], *voc)
    assert str(voc_dir) in message(error)
    assert tree(voc_dir) == before
    assert server.wanted == []


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_bad_transfer_unpacks_nothing(server: Server, voc: tuple[str, str], tmp_path: Path, fault: str) -> None:
    server.cuts, server.corrupt = (1000, False) if fault == "cut" else (0, True)
    with pytest.raises(UserError, match=r"data\.voc_url="):
        download_voc2012(tmp_path, *voc)
    left = [f"{download.VOC_ARCHIVE}.part"] if fault == "cut" else []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", *left]


def test_an_archive_with_a_link_or_a_way_out_is_refused_before_anything_is_unpacked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[object] = []
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: unpacked.append(1))
    inside = "VOCdevkit/VOC2012/JPEGImages/a"
    links = [(inside, kind) for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)]
    for name, kind in [*links, ("/evil.txt", tarfile.REGTYPE), ("VOCdevkit/../../evil.txt", tarfile.REGTYPE)]:
        evil = tarfile.TarInfo(name)
        evil.type, evil.linkname = kind, "JPEGImages/2007_000001.jpg"
        body = io.BytesIO(tar(voc_files()))
        with tarfile.open(fileobj=body, mode="a") as archive:
            archive.addfile(evil)
        url, md5 = server.serve("evil.tar", body.getvalue())
        with pytest.raises(UserError, match=rf"holds '{name}', which is a link or a device, or leads out of"):
            download_voc2012(tmp_path / "data", url, md5)
        (tmp_path / "data" / download.VOC_ARCHIVE).unlink()
    assert not unpacked
    assert list((tmp_path / "data" / "VOCdevkit").iterdir()) == []


@pytest.mark.parametrize("body", [b"<html>blocked</html>", tar(voc_files())[:2000], tar({"readme": b"hello"})])
def test_archive_of_something_else(server: Server, tmp_path: Path, body: bytes) -> None:
    url, md5 = server.serve("other.tar", body)
    with pytest.raises(UserError) as error:
        download_voc2012(tmp_path, url, md5)
    assert str(tmp_path / download.VOC_ARCHIVE) in message(error)
    assert list((tmp_path / "VOCdevkit").iterdir()) == []


def test_disk_must_hold_what_is_unpacked(
    voc: tuple[str, str], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive was placed by hand, so nothing was checked while downloading."""
    archive = tmp_path / download.VOC_ARCHIVE
    archive.write_bytes(server.files["/voc.tar"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(10**9, 10**9, archive.stat().st_size - 1))
    with pytest.raises(UserError, match="free"):
        download_voc2012(tmp_path, *voc)
    assert list((tmp_path / "VOCdevkit").iterdir()) == []


def test_killed_while_unpacking(
    server: Server, voc: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def kill(source: Path, target: Path) -> None:
        if Path(target).name == "VOC2012":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", kill)
        with pytest.raises(KeyboardInterrupt):
            download_voc2012(tmp_path, *voc)
    assert list((tmp_path / "VOCdevkit").iterdir()) == []
    assert tree(download_voc2012(tmp_path, *voc).parents[1]).keys() == voc_files().keys() | {download.VOC_ARCHIVE}
    assert server.wanted == [None]


def test_what_a_kill_left_behind_does_not_get_in(voc: tuple[str, str], tmp_path: Path) -> None:
    """After kill -9 nothing cleans up: the half-unpacked folder lies there when the next call comes."""
    left = tmp_path / "VOCdevkit" / f".{download.VOC_ARCHIVE}.unpacking" / "VOCdevkit" / "VOC2012"
    left.mkdir(parents=True)
    (left / "half").write_text("x")
    folder = download_voc2012(tmp_path, *voc)
    assert not (folder / "half").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["VOC2012"]


# --- SBD


def test_trainaug_is_train_and_sbd_without_val(voc_dir: Path, sbd: tuple[str, str]) -> None:
    download_sbd(voc_dir, *sbd)
    trainaug = (voc_dir / LISTS / "trainaug.txt").read_text().splitlines()
    assert trainaug == ["2007_000001", "2007_000002", "2008_000010", "2008_000011"]
    assert set(VAL) & set(SBD_TRAIN + SBD_VAL)  # the overlap is there to be caught
    assert not set(VAL) & set(trainaug)
    assert sorted(path.stem for path in (voc_dir / "SegmentationClassAug").iterdir()) == trainaug


def test_sbd_masks_are_palette_pngs_and_vocs_own_are_kept(voc_dir: Path, sbd: tuple[str, str]) -> None:
    download_sbd(voc_dir, *sbd)
    for name, value in {TRAIN[0]: 1, TRAIN[1]: 1, "2008_000010": 15, "2008_000011": 15}.items():
        with Image.open(voc_dir / "SegmentationClassAug" / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert np.array_equal(np.array(mask), np.full((8, 8), value))
            assert np.array_equal(np.array(mask.convert("RGB"))[0, 0], voc_palette()[value])


def test_sbd_brings_the_images_that_voc_lacks_and_changes_no_other(voc_dir: Path, sbd: tuple[str, str]) -> None:
    before = tree(voc_dir)
    download_sbd(voc_dir, *sbd)
    after = tree(voc_dir)
    assert {name: after[name] for name in before} == before
    new = {f"JPEGImages/{name}.jpg": body for name, body in [("2008_000011", jpg(100))]}
    assert {name: body for name, body in after.items() if name.startswith("JPEG")} == new | {
        name: body for name, body in before.items() if name.startswith("JPEG")
    }


def test_sbd_is_done_once_and_quietly(
    server: Server, voc_dir: Path, sbd: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    download_sbd(voc_dir, *sbd)
    assert sorted(path.name for path in voc_dir.parent.iterdir()) == [".lock", "VOC2012", "benchmark.tgz"]
    (voc_dir.parent / "benchmark.tgz").unlink()
    download_sbd(voc_dir, *sbd)
    assert server.wanted == [None]
    assert capfd.readouterr() == ("", "")


def test_sbd_list_comes_last(
    server: Server, voc_dir: Path, sbd: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up at any one file leaves no list, and no file that looks whole and is not."""
    replace = os.replace
    targets: list[str] = []

    def record(source: Path, target: Path) -> None:
        replace(source, target)
        targets.append(Path(target).name)

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == targets[-2]:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    before = tree(voc_dir)
    monkeypatch.setattr(os, "replace", record)
    download_sbd(voc_dir, *sbd)
    whole = tree(voc_dir)
    assert targets[-1] == "trainaug.txt"
    for name in whole.keys() - before.keys():
        (voc_dir / name).unlink()

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        download_sbd(voc_dir, *sbd)
    half = {name: body for name, body in tree(voc_dir).items() if not name.endswith(".part")}
    assert f"{LISTS}/trainaug.txt" not in half
    assert half.items() < whole.items()

    monkeypatch.setattr(os, "replace", replace)
    download_sbd(voc_dir, *sbd)
    assert tree(voc_dir) == whole
    assert server.wanted == [None]


def test_sbd_needs_voc_first(server: Server, sbd: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="VOC2012"):
        download_sbd(tmp_path / "VOC2012", *sbd)
    assert server.wanted == []


def test_sbd_host_down(server: Server, voc_dir: Path) -> None:
    with pytest.raises(UserError, match=r"data\.sbd_url=") as error:
        download_sbd(voc_dir, f"{server.url}/gone.tgz")
    assert str(voc_dir.parent / "benchmark.tgz") in message(error)


def test_cut_sbd_archive_is_not_unpacked(server: Server, voc_dir: Path) -> None:
    """Its md5 is the one asked for, so only the decompressor can tell."""
    body = tar(sbd_files(), "w:gz")
    with pytest.raises(UserError, match="cannot be unpacked safely"):
        download_sbd(voc_dir, *server.serve("benchmark.tgz", body[: len(body) // 2]))
    assert not (voc_dir / "SegmentationClassAug").exists()


# --- the command


def test_the_command_downloads_trains_and_asks_no_more(
    run: Command, server: Server, voc: tuple[str, str], sbd: tuple[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    options = [
        *("data=voc2012", f"data.root={root}", "data.download=true", "data.train_split=trainaug"),
        *(f"data.voc_url={voc[0]}", f"data.voc_md5={voc[1]}", f"data.sbd_url={sbd[0]}", f"data.sbd_md5={sbd[1]}"),
        *("data.transform.crop_size=64", "data.batch_size=2", "data.num_workers=0", "trainer.max_steps=1"),
        *(each for each in TINY if each.startswith(("model.", "trainer."))),
    ]
    assert run(train, *options, f"run_dir={tmp_path / 'a'}").status == 0
    requests = len(server.wanted)
    assert requests == 2
    for given in (root, root / "VOCdevkit", root / "VOCdevkit" / "VOC2012"):
        datamodule = build.datamodule_from_config(composed("train", [*options, f"data.root={given}"]))
        datamodule.prepare_data()
        datamodule.setup("fit")
    assert len(server.wanted) == requests


def test_the_command_says_what_to_do_when_the_host_is_down(run: Command, server: Server, tmp_path: Path) -> None:
    options = ["data=voc2012", f"data.root={tmp_path / 'data'}", "data.download=true"]
    result = run(train, *options, f"data.voc_url={server.url}/missing", f"run_dir={tmp_path / 'run'}")
    assert result.status == 1
    assert "data.voc_url=" in result.error
    assert not (tmp_path / "run").exists()
