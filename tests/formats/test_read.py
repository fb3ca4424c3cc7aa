"""Exported files: they compute what the network does, and damaged, foreign or malicious ones are refused."""

import contextlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch._export.serde.schema import SCHEMA_VERSION

from segunet.base.errors import UserError
from segunet.formats.read import ArrayNet, import_openvino, read_exported
from segunet.formats.write import FORMATS
from segunet.inference.checkpoint import load_checkpoint
from tests.exports import Exports, export_to_every_format


@pytest.fixture
def exports(trained: Path) -> Exports:
    return export_to_every_format(trained / "voc")


@pytest.mark.parametrize("name", FORMATS)
def test_it_computes_what_the_network_does_for_any_batch_and_size(exports: Exports, name: str) -> None:
    original, exported = (load_checkpoint(path) for path in (exports.checkpoint, exports.files[name]))
    assert (exported.class_names, exported.inference_size) == (original.class_names, original.inference_size)
    assert (exported.colours.palette == original.colours.palette).all()
    assert exported.colours.labels == original.colours.labels
    assert exported.data == original.data
    assert not exported.net.training
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 1, 1), (1, 3, 32, 64), (3, 3, 65, 33), (2, 3, 50, 127)):
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        with torch.inference_mode():
            wanted, got = original.net(images), exported.net(images)
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.std()))
            assert torch.equal(got, exported.net(images))
            assert torch.equal(got, exported.net(images.float()))
            columns = images.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)  # the same, not contiguous
            torch.testing.assert_close(exported.net(columns), got)


def test_float_images_of_another_runtime_are_rounded() -> None:
    net = ArrayNet(lambda inputs: inputs[0].astype("float32"))
    images = torch.tensor([-3.0, 0.4, 1.6, 254.7, 300.0]).view(1, 1, 1, 5)
    assert net(images).flatten().tolist() == [0, 0, 2, 255, 255]


def test_a_signal_does_not_end_a_process_that_has_dropped_two_openvino_networks(exports: Exports) -> None:
    code = """if True:
        import signal, sys
        from pathlib import Path
        from segunet.formats.read import read_exported
        path, received = Path(sys.argv[1]), []
        signal.signal(signal.SIGUSR1, lambda *_: received.append(True))
        first, second = read_exported(path), read_exported(path)
        del first
        del second
        signal.raise_signal(signal.SIGUSR1)
        assert received == [True]
    """
    subprocess.run([sys.executable, "-c", code, str(exports.files["openvino"])], check=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text("text"), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named(exports: Exports, tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    shutil.copy(exports.files["openvino"].with_suffix(".bin"), tmp_path)
    path = Path(shutil.copy(exports.files[name], tmp_path))
    damage(path)
    with pytest.raises(UserError, match=str(path)):
        load_checkpoint(path)


def test_openvino_s_weights_must_lie_beside_it_and_be_whole(exports: Exports, tmp_path: Path) -> None:
    path = Path(shutil.copy(exports.files["openvino"], tmp_path))
    with pytest.raises(UserError, match=r"in best\.bin beside it, which is missing\. Copy both"):
        load_checkpoint(path)
    cut(Path(shutil.copy(exports.files["openvino"].with_suffix(".bin"), tmp_path)))
    with pytest.raises(UserError, match=str(path)):
        load_checkpoint(path)


def test_a_suffix_that_is_another_format_s_is_refused(exports: Exports, tmp_path: Path) -> None:
    files = [*exports.files.values(), exports.checkpoint]
    for source in files:
        for suffix in {each.suffix for each in files} - {source.suffix}:
            path = Path(shutil.copy(source, tmp_path / f"wrong{suffix}"))
            path.with_suffix(".bin").touch()
            with pytest.raises(UserError, match=str(path)):
                load_checkpoint(path)


def test_networks_of_others_are_refused(tmp_path: Path) -> None:
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["images"], ["logits"])], "relu", info[:1], info[1:])
    opset = onnx.helper.make_opsetid("", 20)
    onnx.save(onnx.helper.make_model(graph, ir_version=10, opset_imports=[opset]), tmp_path / "other.onnx")
    openvino = import_openvino()
    openvino.save_model(openvino.convert_model(tmp_path / "other.onnx"), tmp_path / "other.xml")
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))
    torch.export.save(program, tmp_path / "other.pt2")
    for suffix in (".onnx", ".xml", ".pt2"):
        with pytest.raises(UserError, match="not written by"):
            load_checkpoint(tmp_path / f"other{suffix}")
    with pytest.raises(UserError, match="no checkpoint"):
        load_checkpoint(tmp_path / "missing.onnx")


def test_an_exported_file_cannot_name_code_to_run(exports: Exports, tmp_path: Path) -> None:
    model = onnx.load(exports.files["onnx"])
    card = json.loads(model.metadata_props[0].value)
    card["data"]["root"] = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    card["checksum"] = ""
    model.metadata_props[0].value = json.dumps(card)
    onnx.save(model, tmp_path / "evil.onnx")
    with pytest.raises(UserError, match=r"data\.root must be a valid string"):
        load_checkpoint(tmp_path / "evil.onnx")
    del card["palette"]
    model.metadata_props[0].value = json.dumps(card)
    onnx.save(model, tmp_path / "less.onnx")
    with pytest.raises(UserError, match="palette: Field required"):
        load_checkpoint(tmp_path / "less.onnx")
    assert not (tmp_path / "ran").exists()


def test_operators_that_no_network_needs_are_not_run(exports: Exports, tmp_path: Path) -> None:
    for operator in ("Loop", "If", "ConstantOfShape", "Range", "RandomNormal"):
        model = onnx.load(exports.files["onnx"])
        card = json.loads(model.metadata_props[0].value)
        model.metadata_props[0].value = json.dumps({**card, "checksum": ""})
        model.graph.node.append(onnx.helper.make_node(operator, [], ["more"]))
        onnx.save(model, tmp_path / "evil.onnx")
        with pytest.raises(UserError, match=rf"operators that a network does not need \({operator}\)"):
            load_checkpoint(tmp_path / "evil.onnx")


def test_damage_anywhere_is_seen(exports: Exports, tmp_path: Path) -> None:
    for name, source in exports.files.items():
        path = Path(shutil.copy(source, tmp_path))
        beside = [Path(shutil.copy(source.with_suffix(".bin"), tmp_path))] if name == "openvino" else []
        for file in (path, *beside):
            whole = file.read_bytes()
            for number in range(25):
                place = len(whole) * number // 25
                damaged = bytearray(whole)
                damaged[place : place + 32] = bytes(each ^ 255 for each in damaged[place : place + 32])
                file.write_bytes(damaged)
                with pytest.raises(UserError, match=str(path)):
                    load_checkpoint(path)
            file.write_bytes(whole)
        load_checkpoint(path)


class Payload:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


def pickled(path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(((Payload(path),), {}), buffer)
    return buffer.getvalue()


Change = Callable[[bytes], bytes]


def rewritten(source: Path, target: Path, changes: dict[str, Change]) -> Path:
    """Copy a program with some of its records, known by the end of their path, changed; or added, if there is none."""
    left = dict(changes)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for record in old.namelist():
            content = old.read(record)
            if change := left.pop(Path(record).name, None):
                content = change(content)
            new.writestr(record, content)
        for name, change in left.items():
            new.writestr(f"{record.split('/')[0]}/{name}", change(b""))
    return target


def in_program(key: str, value: Any) -> dict[str, Change]:
    """Return a change that gives the first ``key`` anywhere in the program another value."""

    def changed(content: bytes) -> bytes:
        program = json.loads(content)
        assert _set_first(program, key, value)
        return json.dumps(program).encode()

    return {"model.json": changed}


def _set_first(tree: Any, key: str, value: Any) -> bool:
    if isinstance(tree, list):
        return any(_set_first(each, key, value) for each in tree)
    if isinstance(tree, dict) and key in tree:
        tree[key] = value
        return True
    return isinstance(tree, dict) and any(_set_first(each, key, value) for each in tree.values())


CODE = "__import__('os').system('true')"
STRUCTURE = '[1, {"type": "collections.defaultdict", "context": {"default_factory_module": "os"}, "children_spec": []}]'
EVIL: dict[str, dict[str, Change]] = {
    "a function of torch": in_program("target", "torch.os.system"),
    "a function of operator": in_program("target", "_operator.methodcaller"),
    "a file for a tensor": in_program("target", "torch.ops.aten.from_file.default"),
    "a guard": in_program("guards_code", [CODE]),
    "a size": in_program("expr_str", CODE),
    "a name": in_program("name", "x\nimport os"),
    "a structure": in_program("in_spec", STRUCTURE),
    "weights to unpickle": {"model_weights_config.json": lambda it: it.replace(b"false", b"true")},
    "constants to unpickle": {"model_constants_config.json": lambda _: b'{"config": {"a": {"use_pickle": true}}}'},
    "an object": {"data/constants/custom_obj_0": lambda _: b"pickled"},
    "a library": {"data/aotinductor/model/net.so": lambda _: b"ELF"},
}


@pytest.mark.parametrize("what", EVIL)
def test_a_program_that_could_run_code_is_not_opened(exports: Exports, tmp_path: Path, what: str) -> None:
    path = rewritten(exports.files["torch_export"], tmp_path / "evil.pt2", EVIL[what])
    with pytest.raises(UserError, match="it may run code"):
        read_exported(path)


def test_sample_inputs_are_not_unpickled_as_torch_would(exports: Exports, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = rewritten(exports.files["torch_export"], tmp_path / "evil.pt2", {"model.pt": lambda _: pickled(ran)})
    with pytest.raises(UserError, match=str(path)):
        read_exported(path)
    assert not ran.exists()
    torch.load(io.BytesIO(pickled(ran)), weights_only=False)
    assert ran.exists()


def two_archives_in_one(current: bytes, old: bytes) -> bytes:
    """Return a file whose records are those of ``current`` to torch's reader, and those of ``old`` to Python's.

    An archive ends with the size of its directory and where it begins. torch looks there; zipfile takes what stands
    before the end for the directory, and corrects the places of the records by the difference.
    """
    parts = []
    for archive in (current, old):
        end = archive.rindex(b"PK\x05\x06")
        count, size, start = struct.unpack("<HII", archive[end + 10 : end + 20])
        parts.append((archive[:start], bytearray(archive[start : start + size]), count))
    (records, directory, count), (old_records, old_directory, _) = parts
    entries = [match.start() for match in re.finditer(b"PK\x01\x02", old_directory)]
    for entry in entries:
        (place,) = struct.unpack_from("<I", old_directory, entry + 42)
        struct.pack_into("<I", old_directory, entry + 42, place + len(records) - len(old_records))
    gap = len(directory) - len(old_directory)  # both are to have one size: a comment fills the last entry
    struct.pack_into("<H", old_directory, entries[-1] + 32, gap)
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(records), 0)
    return records + directory + old_records + old_directory + b" " * gap + tail


def test_a_program_is_not_read_in_torch_s_older_format(exports: Exports, tmp_path: Path) -> None:
    damaged = rewritten(
        exports.files["torch_export"], tmp_path / "now.pt2", {"model_weights_config.json": _without_weights}
    )
    with zipfile.ZipFile(damaged) as current:
        program = next(current.read(name) for name in current.namelist() if name.endswith("models/model.json"))
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", ".".join(map(str, SCHEMA_VERSION)))
        archive.writestr("serialized_exported_program.json", program)
        for name in ("state_dict", "constants", "example_inputs"):
            archive.writestr(f"serialized_{name}.pt", pickled(tmp_path / "ran"))
    evil = tmp_path / "evil.pt2"
    evil.write_bytes(two_archives_in_one(damaged.read_bytes(), (tmp_path / "old.pt2").read_bytes()))
    with pytest.raises(UserError, match=str(evil)):
        read_exported(evil)
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(Exception):
        torch.export.load(evil)
    assert (tmp_path / "ran").exists()


def _without_weights(config: bytes) -> bytes:
    """Name a record that is not there, at which torch's reader of the current format ends with a RuntimeError."""
    return config.replace(b'"weight_', b'"absent_')


def test_a_copied_archive_is_opened(exports: Exports, tmp_path: Path) -> None:
    net, card = read_exported(rewritten(exports.files["torch_export"], tmp_path / "copy.pt2", {}))
    assert net(torch.zeros(1, 3, 5, 7, dtype=torch.uint8)).shape == (1, len(card["class_names"]), 5, 7)
