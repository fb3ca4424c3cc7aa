"""Every file under conf/ composes, and what it describes can be built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.models.diffusion_unet import DiffusionUNet
from segunet.training import build
from segunet.training.build_callbacks import callbacks_from_config
from segunet.training.build_trainer import trainer_from_config
from segunet.training.diffusion import DiffusionTask
from tests.images.test_palette import VOC_NAMES

GROUPS = ("model", "loss", "optimizer", "lr_schedule", "trainer", "callbacks", "logger", "experiment", "data/transform")
# What a choice of a denoiser needs beside it.
OF_DENOISER = {
    "model=diffusion_unet": ["loss=denoising"],
    "loss=denoising": ["model=diffusion_unet"],
    "loss=flow_matching": ["model=diffusion_unet"],
}
OWN_DATA = ["experiment=small_data_cpu"]  # recipes without a data set
TRAIN_CHOICES = [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))] + [
    f"data={name}" for name in ("sample", "cells", "voc2012", "custom")
]


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(root, list(overrides))


def test_every_file_is_a_root_or_a_choice_that_is_tested() -> None:
    files = {str(path.relative_to(CONF_DIR).with_suffix("")) for path in CONF_DIR.rglob("*.yaml")}
    tested = {choice.replace("=", "/") for choice in TRAIN_CHOICES}
    roots = {"train", "evaluate", "predict", "check_data", "export", "summary", "convert", "generate"}
    roots |= {"benchmark", "report", "import_labels", "demo"}
    parts = {
        "command",
        "data/from_checkpoint",
        "data/latents",
        "from/article",
        "from/smp",
        "from/smp_timm",
        "hydra/sweeper/search",
    }
    assert files - tested == roots | parts


@pytest.mark.parametrize("choice", TRAIN_CHOICES)
def test_it_composes_and_builds(choice: str, tmp_path: Path) -> None:
    own = ["data.root=.", "data.class_names=[a,b]"] if choice in ("data=custom", *OWN_DATA) else []
    cfg = composed("train", choice, *own, *OF_DENOISER.get(choice, []))
    if "encoder" in cfg.model:
        cfg.model.encoder.weights = None  # the one thing that needs a network or a file
    if choice == "model=classic_unet":
        cfg.data.transform.crop_size = 93  # the sample's 64 pixels are too small to be mirrored
    datamodule = build.datamodule_from_config(cfg)
    task = build.task_from_config(cfg, datamodule)
    channels = 3 if isinstance(task.net, DiffusionUNet) else len(datamodule.class_names)
    assert task.net.get_submodule("head").out_channels == channels
    callbacks = callbacks_from_config(cfg, datamodule, tmp_path)
    assert trainer_from_config(cfg, callbacks, tmp_path).max_epochs == cfg.trainer.max_epochs


def test_a_denoiser_and_its_loss_belong_together() -> None:
    cfg = composed("train", "model=diffusion_unet")
    with pytest.raises(UserError, match="is a denoiser, which returns no logits: train it with loss=denoising"):
        build.task_from_config(cfg, build.datamodule_from_config(cfg))
    cfg = composed("train", "loss=denoising")  # the network and its weights are not even looked at
    with pytest.raises(UserError, match="a denoiser's, but the model is a segmentation network: add model=diffusion"):
        build.task_from_config(cfg, build.datamodule_from_config(cfg))


def test_the_classes_are_written_once() -> None:
    cfg = composed("train", "data=custom", "data.class_names=[a,b,c]", "data.root=.", "data.ignore_index=7")
    assert cfg.model.num_classes == 3
    assert instantiate(cfg.loss, _convert_="all").ignore_index == 7
    assert instantiate(cfg.data.transform, _convert_="all") is not None


def test_voc_s_names_are_those_of_the_config() -> None:
    assert tuple(composed("train", "data=voc2012").data.class_names) == VOC_NAMES


def test_the_evaluation_composes_with_every_data_set() -> None:
    for data in ("from_checkpoint", "sample", "cells", "voc2012"):
        assert composed("evaluate", f"data={data}").tta == "none"


def test_the_denoiser_of_the_sample_trains_by_flow_matching_too() -> None:
    cfg = composed("train", "experiment=diffusion_sample", "loss=flow_matching")
    task = build.task_from_config(cfg, build.datamodule_from_config(cfg))
    assert isinstance(task, DiffusionTask)
    assert task.loss.noise_schedule.is_flow
