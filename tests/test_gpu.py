"""The checks for a GPU, as far as a CPU can do them."""

import pytest
import torch

from tests import gpu

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BATCH", 2)
    monkeypatch.setattr(gpu, "SIZE", 64)
    monkeypatch.setattr(gpu, "VALIDATION_SIZES", ((65, 90), (90, 65), (64, 70), (33, 128)))


def test_one_compilation_serves_all_sizes_of_validation() -> None:
    assert gpu.check_compile(CPU, backend="eager").startswith(("2 compilations", "3 compilations"))


def test_bfloat16_has_much_the_same_loss_and_gradient() -> None:
    assert "in bfloat16" in gpu.check_precision(CPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main()
    assert capsys.readouterr().out == "There is no CUDA GPU here: nothing was checked.\n"
