"""Download VOC2012 and, for the 10,582 images of ``trainaug``, SBD: resumable, verified and atomic.

The last step is a single rename, so a run killed at any time is completed by running the same command again.
The archives are kept, so that they are not downloaded twice; they may be deleted.

    VOCtrainval_11-May-2012.tar -> VOCdevkit/VOC2012/{JPEGImages, SegmentationClass, ImageSets, ...}
    benchmark.tgz               -> VOCdevkit/VOC2012/SegmentationClassAug, ImageSets/Segmentation/trainaug.txt

SBD: Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011.
"""

import shutil
import ssl
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from PIL import Image
from rich.progress import track, wrap_file
from scipy.io import loadmat
from torchvision.datasets.sbd import SBDataset
from torchvision.datasets.utils import check_md5
from torchvision.datasets.voc import DATASET_YEAR_DICT

from segunet.base.errors import UserError
from segunet.base.files import locked
from segunet.images.palette import voc_palette

VOC_URL, VOC_MD5, VOC_ARCHIVE = (str(DATASET_YEAR_DICT["2012"][key]) for key in ("url", "md5", "filename"))
SBD_URL, SBD_MD5, SBD_ARCHIVE = str(SBDataset.url), str(SBDataset.md5), str(SBDataset.filename)
VOC_FOLDER = Path("VOCdevkit", "VOC2012")
VOC_LISTS = Path("ImageSets", "Segmentation")
SBD_FOLDER = Path("benchmark_RELEASE", "dataset")
TIMEOUT = 30.0  # seconds without a byte
RETRY_AFTER = (1.0, 4.0, 16.0)  # seconds to wait after the first, second and third dropped transfer
DROPPED = (HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def download_voc2012(root: Path, url: str = VOC_URL, md5: str = VOC_MD5) -> Path:
    """Return the folder ``root/VOCdevkit/VOC2012``, downloaded and unpacked first unless it is complete.

    Raises:
        UserError: the archive cannot be downloaded or unpacked, or is the wrong one; or the folder exists
            without its lists (it is not changed).
    """
    voc_dir = root / VOC_FOLDER
    if _has_lists(voc_dir / VOC_LISTS):
        return voc_dir
    with locked(root), _writing(root):
        if _has_lists(voc_dir / VOC_LISTS):  # another process completed it while this one waited
            return voc_dir
        if voc_dir.exists():
            raise UserError(
                f"VOC2012 cannot be written to {voc_dir}: that folder exists, without train.txt and val.txt in its "
                f"{VOC_LISTS}. Complete it, or move it away, and run the same command again."
            )
        fetch(url, root / VOC_ARCHIVE, md5, option="data.voc_url")
        voc_dir.parent.mkdir(exist_ok=True)
        with _unpacked(root / VOC_ARCHIVE, voc_dir.parent, VOC_FOLDER / VOC_LISTS) as folder:
            (folder / VOC_FOLDER).replace(voc_dir)
    return voc_dir


def download_sbd(voc_dir: Path, url: str = SBD_URL, md5: str = SBD_MD5) -> None:
    """Add SBD to ``voc_dir``, a complete VOC2012 folder: SegmentationClassAug/ and the list trainaug.txt.

    ``trainaug`` is VOC's train, with VOC's own finer masks, plus all of SBD that is not in VOC's val. Masks
    are palette PNGs: classes 0-20 and, in VOC's own, 255. The archive is kept beside ``voc_dir``. Does
    nothing if the list exists already.

    Raises:
        UserError: ``voc_dir`` is not complete, or the archive cannot be downloaded or unpacked, or is the
            wrong one.
    """
    if (voc_dir / VOC_LISTS / "trainaug.txt").is_file():
        return
    if not _has_lists(voc_dir / VOC_LISTS):
        raise UserError(f"SBD is added to VOC2012, but {voc_dir / VOC_LISTS} lacks train.txt or val.txt.")
    archive = voc_dir.parent / SBD_ARCHIVE
    with locked(voc_dir.parent), _writing(voc_dir.parent):
        if (voc_dir / VOC_LISTS / "trainaug.txt").is_file():  # likewise
            return
        fetch(url, archive, md5, option="data.sbd_url")
        with _unpacked(archive, voc_dir.parent, SBD_FOLDER) as folder:
            _merge(folder / SBD_FOLDER, voc_dir)


def fetch(url: str, path: Path, md5: str, option: str) -> None:
    """Download ``url`` (http, https or file) to ``path``, which appears only once its md5 is right.

    Partial downloads are kept in ``<path>.part``, where the next call resumes; a correct ``path`` is not
    downloaded again. ``option`` is the setting with the address, for messages: ``data.voc_url``.

    Raises:
        UserError: no response or too many dropped transfers (the .part is kept), too little disk space, or a
            wrong md5 (the .part is deleted; a wrong ``path`` from before is not changed).
    """
    if path.exists():
        if check_md5(path, md5):
            return
        raise UserError(f"{path} is damaged or the wrong file: its md5 is not {md5}. Delete it and run again.")
    advice = (
        f"Set {option}=... to another address, or put the archive (md5 {md5}) at {path} yourself, and run "
        "the same command again."
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part(path)
    try:
        _download(url, part)
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(
            f"{path.name} could not be downloaded from {url}: {error}. This host is often down; the partial "
            f"download is kept, and running the same command later resumes it. {advice}"
        ) from error
    if not check_md5(part, md5):
        part.unlink()
        raise UserError(f"{url} sent a corrupt or wrong file: its md5 is not {md5}. It was deleted. {advice}")
    part.replace(path)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Convert system errors, such as a full disk or a folder that is not writable, into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The data set cannot be written to {folder}: {error}. Free some space if the disk is full, or give "
            "another folder as data.root, and run again."
        ) from error


def _download(url: str, part: Path) -> None:
    """Download the whole file, resuming dropped transfers; a host that does not respond is tried once."""
    for pause in RETRY_AFTER:
        try:
            return _download_rest(url, part)
        except DROPPED:
            time.sleep(pause)
    return _download_rest(url, part)


def _download_rest(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "segunet"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            _append(response, part, have)
    except HTTPError as error:
        error.close()
        if not (error.code == 416 and have):  # 416: we have all bytes; the md5 decides
            raise


def _append(response: HTTPResponse, part: Path, have: int) -> None:
    """Append the rest of the file to ``part``, or overwrite it if the server sent the whole file."""
    resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
    rest = int(response.headers.get("Content-Length", 0))
    total = rest + have * resumed
    _check_space(part.parent, rest + total)
    with part.open("ab" if resumed else "wb") as file:
        with wrap_file(response, rest, description=part.stem, disable=_quiet()) as reader:
            shutil.copyfileobj(reader, file)
        if file.tell() < total:
            raise ConnectionError(f"the transfer stopped after {file.tell():,} of {total:,} bytes")


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"Downloading and unpacking in {folder} takes {need / 1e9:.2f} GB, but its disk has only "
            f"{free / 1e9:.2f} GB free. Free some space, or choose a folder on another disk, and run again."
        )


@contextmanager
def _unpacked(archive: Path, parent: Path, lists: Path) -> Iterator[Path]:
    """Unpack into a temporary folder in ``parent``, removed at the end or, if killed, by the next call."""
    folder = parent / f".{archive.name}.unpacking"
    shutil.rmtree(folder, ignore_errors=True)
    _check_space(parent, archive.stat().st_size)
    try:
        _extract(archive, folder)
        if not _has_lists(folder / lists):
            raise UserError(f"{archive} is the wrong archive: no {lists}/train.txt and val.txt. Delete it.")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                _check_member(archive, member)
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{archive} cannot be unpacked safely: {error}. Free some space if the disk is full; otherwise "
            "delete the archive and download it again."
        ) from error


def _check_member(archive: Path, member: tarfile.TarInfo) -> None:
    """Raise a UserError unless the member is a file or folder inside the archive; VOC and SBD have no others."""
    path = PurePosixPath(member.name)
    if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{archive} holds {member.name!r}, which is a link or a device, or leads out of the folder; those of VOC "
            "and SBD do not. Nothing was unpacked. Delete the archive and download it again."
        )


def _merge(sbd: Path, voc_dir: Path) -> None:
    """Write trainaug's masks, images and, last, its list."""
    train, val = (_names(voc_dir / VOC_LISTS / f"{split}.txt") for split in ("train", "val"))
    added = (_names(sbd / "train.txt") | _names(sbd / "val.txt")) - train - val
    masks = voc_dir / "SegmentationClassAug"
    masks.mkdir(exist_ok=True)
    for name in train:
        _copy(voc_dir / "SegmentationClass" / f"{name}.png", masks)
    for name in track(sorted(added), "SBD's masks", disable=_quiet()):
        _convert(sbd / "cls" / f"{name}.mat", masks / f"{name}.png")
        if not (voc_dir / "JPEGImages" / f"{name}.jpg").exists():
            _copy(sbd / "img" / f"{name}.jpg", voc_dir / "JPEGImages")
    with _written_whole(voc_dir / VOC_LISTS / "trainaug.txt") as part:
        part.write_text("".join(f"{name}\n" for name in sorted(train | added)))


def _convert(mat: Path, png: Path) -> None:
    labels = loadmat(mat, mat_dtype=False, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
    mask = Image.fromarray(labels.astype(np.uint8))
    mask.putpalette(voc_palette().tobytes())  # from mode L to P
    with _written_whole(png) as part:
        mask.save(part, format="PNG")


def _copy(source: Path, folder: Path) -> None:
    with _written_whole(folder / source.name) as part:
        shutil.copyfile(source, part)


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to ``path`` once it is written."""
    yield _part(path)
    _part(path).replace(path)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _names(path: Path) -> set[str]:
    return set(path.read_text().split())


def _has_lists(folder: Path) -> bool:
    return all((folder / name).is_file() for name in ("train.txt", "val.txt"))


def _quiet() -> bool:
    return not sys.stdout.isatty()
