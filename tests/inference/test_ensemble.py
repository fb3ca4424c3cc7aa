"""Several checkpoints as one, whose predictions are averaged."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segunet
from segunet import evaluate, predict
from segunet.base.errors import UserError
from segunet.inference.ensemble import load_checkpoints
from tests.commands import Command


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> list[Path]:
    """Return two checkpoints of different networks of one kind."""
    first, second = trained / "checkpoints" / "best.ckpt", tmp_path / "other.ckpt"
    content = torch.load(first, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    for name, value in content["state_dict"].items():
        if name.startswith("net.head"):
            content["state_dict"][name] = value + 0.1 * torch.randn(value.shape, generator=generator)
    torch.save(content, second)
    return [first, second]


@pytest.mark.parametrize("settings", [{}, {"tta": "flip"}, {"tile": 32}])
def test_the_scores_are_the_mean_of_the_networks(
    checkpoints: list[Path], trained: Path, settings: dict[str, Any]
) -> None:
    image = trained / "voc" / "JPEGImages" / "val_1.jpg"
    options = {"accelerator": "cpu", "precision": "32-true", **settings}
    alone = [segunet.load(path, **options).scores(image) for path in checkpoints]
    both = segunet.load(checkpoints, **options)
    assert abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(both.scores(image), (alone[0] + alone[1]) / 2, atol=1e-5)
    assert segunet.load(checkpoints[:1], **options).predict(image).shape == (64, 80)


def test_the_commands_take_several(run: Command, checkpoints: list[Path], trained: Path, tmp_path: Path) -> None:
    given = f"checkpoint=[{','.join(map(str, checkpoints))}]"
    options = ["trainer.accelerator=cpu", "save_predictions=true", "data.val_batch_size=1"]
    result = run(evaluate, given, *options, f"run_dir={tmp_path / 'scored'}")
    assert result.status == 0, result.error
    images = trained / "voc" / "JPEGImages"
    result = run(predict, given, f"input={images}", f"output={tmp_path / 'out'}", "accelerator=cpu")
    assert result.status == 0, result.error
    for path in (tmp_path / "scored" / "predictions").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / "masks" / path.name).read_bytes()


def test_checkpoints_that_do_not_belong_together_are_refused(
    run: Command, trained: Path, checkpoints: list[Path], tmp_path: Path
) -> None:
    content = torch.load(checkpoints[1], weights_only=True)
    for change in ({"class_names": ["background", "disc", "ring"]}, {"inference_size": 48}):
        torch.save(content | {"segunet": content["segunet"] | change}, tmp_path / "changed.ckpt")
        with pytest.raises(UserError, match=r"changed\.ckpt cannot be averaged: the (classes|inference_size)"):
            load_checkpoints([checkpoints[0], tmp_path / "changed.ckpt"])
    with pytest.raises(UserError, match="The list is empty"):
        load_checkpoints([])
    assert (
        "There is no checkpoint" in run(predict, "checkpoint=[none.ckpt,other.ckpt]", f"input={trained / 'voc'}").error
    )
