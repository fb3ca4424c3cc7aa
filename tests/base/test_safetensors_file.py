"""Files of safetensors, against the library's own reader; damaged and foreign ones."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from segunet.base.errors import UserError
from segunet.base.safetensors_file import read_tensors, read_weights, write_tensors

TENSORS = {
    "scalar": torch.tensor(5),
    "empty": torch.zeros(0, 3),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "flag": torch.tensor([True, False]),
}


def test_every_program_reads_what_is_written(tmp_path: Path) -> None:
    write_tensors(TENSORS, {"about": "é"}, path := tmp_path / "net.safetensors")
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(TENSORS)
        assert file.metadata()["about"] == "é"
    read, text = read_tensors(path, "")
    assert text == {"about": "é"}
    for name, tensor in TENSORS.items():
        assert (read[name].dtype, torch.equal(read[name], tensor)) == (tensor.dtype, True)


def test_files_of_others_have_no_checksum(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, path := tmp_path / "net.safetensors")
    assert read_weights(path, "")["weight"].tolist() == [1, 1, 1]


def test_each_damaged_byte_is_found(tmp_path: Path) -> None:
    write_tensors(TENSORS, {"about": "a net"}, path := tmp_path / "net.safetensors")
    content = path.read_bytes()
    damaged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(0, len(content), 7)]
    cut = [content[:length] for length in range(0, len(content), 50)]
    for each in [*damaged, *cut, content + b"more", b"hello", (2**50).to_bytes(8, "little") + b"{}"]:
        path.write_bytes(each)
        with suppress(UserError):
            assert read_tensors(path, "")[0].keys() == TENSORS.keys(), "a name was lost"
            header = int.from_bytes(content[:8], "little") + 8
            assert each[header:] == content[header:]  # at most a space in the header is another one


def test_what_cannot_be_read_is_said_with_advice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.safetensors \(no such file\) is not a readable file .* Copy it\."):
        read_tensors(tmp_path / "none.safetensors", "Copy it.")
    with pytest.raises(UserError, match="not a readable file of safetensors"):
        read_tensors(tmp_path, "")
