"""Failures of the machine, made for real, as they are told."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from segunet.base.errors import UserError
from segunet.base.failures import enough_memory, explained


class Deadly(Dataset[int]):
    """Ends the process that reads from it, as the kernel does where memory is short."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return index


def fill_a_disk() -> None:
    with Path("/dev/full").open("w") as file:
        file.write("text")


def allocate_much(make: Callable[[int], object]) -> Callable[[], object]:
    return lambda: make(2**56)


FAILURES: dict[str, list[Callable[[], object]]] = {
    "Out of memory: ": [allocate_much(torch.empty), allocate_much(np.empty), allocate_much(bytearray)],
    "the disk is full": [fill_a_disk],
    "Lower data.num_workers": [lambda: list(DataLoader[int](Deadly(), num_workers=1))],
}


def test_failures_of_the_machine_are_told_as_a_paragraph() -> None:
    for text, failures in FAILURES.items():
        for fail in failures:
            with pytest.raises((RuntimeError, MemoryError, OSError)) as caught:
                fail()
            told = explained(caught.value)
            assert told is not None, caught.value
            assert text in told.paragraph
            assert "\n" not in told.paragraph


def test_what_ended_another_process_of_the_run_is_told() -> None:
    gloo = RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:31813")
    told = explained(gloo)
    assert told is not None
    assert "Another process of this run died" in told.paragraph


def test_other_errors_are_left_as_they_are() -> None:
    for error in (
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("no"),
        FileNotFoundError(2, "no"),
    ):
        assert explained(error) is None
        with pytest.raises(type(error)), enough_memory("here", "Buy some."):
            raise error


def test_what_was_out_of_memory_is_named_once() -> None:
    with (
        pytest.raises(UserError, match=r"^Out of memory for an image\. Cut it\.$"),
        enough_memory("in the training", "Lower it."),
        enough_memory("for an image", "Cut it."),
    ):
        torch.empty(2**56)
