"""What is wrong with a command line, said before Hydra does."""

import importlib
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from segunet import predict, summary, train
from segunet.base.paths import CONF_DIR
from segunet.cli import overrides
from segunet.cli.overrides import with_recipe
from tests.commands import Command

WRONG = {
    "chekpoint=x": "predict has no setting chekpoint. Did you mean checkpoint?",
    "tta": "tta cannot be parsed as a setting. Settings are typed as name=value.",
    "hydra.job.nam=x": "predict has no setting hydra.job.nam.",
    "input=a=b.jpg": "input=a=b.jpg cannot be parsed as a setting. Type it as 'input=\"a=b.jpg\"'",
    "input=forêt.jpg": "'input=\"forêt.jpg\"'",
    "input=a,b.jpg": "'input=\"a,b.jpg\"'",
    "+trainer.max_epochs=3": "predict has no setting trainer.",
}
FLAGS = {
    "--checkpoint best.ckpt input=x": "--checkpoint: settings are typed without dashes, as name=value. "
    "Type it as checkpoint=best.ckpt.",
    "input=x --tile=512": "Type it as tile=512.",
    "--skip-existing input=x": "Type it as skip_existing=VALUE.",
    "--save_probabilities": "Type it as save_probabilities=VALUE.",
    "checkpoint=a input photos": "input photos: settings are typed as name=value. Type it as input=photos",
    "input 'a b'": "Type it as 'input=",
}
WRONG_OF_TRAIN = {
    "trainer.max_epoch=3": "train has no setting trainer.max_epoch. Did you mean trainer.max_epochs?",
    "optimzer=sgd": "Did you mean optimizer?",
    "logger.csv.name=x": "error: logger.csv.name belongs to logger=csv, which is not chosen.",
    "data.bands=4": "error: data.bands belongs to data=custom, which is not chosen.",
    "resume=x logger.wandb.offline=true": "error: train has no setting logger.wandb.offline.",
    "-m hydra/sweeper=search hydra.sweeper.n_trials=5 optimzer.lr=1": "train has no setting optimzer.lr. Did you mean",
    "from=smp": "error: train has no setting from. ",
    "optimizer=adm": "optimizer=adm: there is no such optimizer. Give one of adam, adamw, adamw_scratch, sgd.",
    "optimizer=null": "Config group override must be",
    "model=article model.decoder.width=1": "Did you mean model.decoder.widths?",
    "data.class_names=a,b": "Type a list as 'data.class_names=[a,b]'",
    "data.class_names=[ü,b]": """Quote entries with special characters, as in 'data.class_names=["...",...]'.""",
    "seed=range(1,3)": "seed=range(1,3) gives several values, which only a sweep (-m) accepts.",
    "model@foo=article": "train has no setting model@foo. Did you mean model?",
    "-m trainer.max_epoch=1,2": "Did you mean trainer.max_epochs?",
    "-m loss=abc,ce": "loss=abc: there is no such loss. Give one of ce, ce_dice, denoising, flow_matching, focal_dice.",
    "-m loss=ce,abc": "loss=abc: there is no such loss.",
    "-m trainer.max_epoch=interval(1,2)": "Did you mean trainer.max_epochs?",
    "hydra.foo=1": "train has no setting hydra.foo.",
    "+chekpoint=x.ckpt": "train has no setting chekpoint. Did you mean checkpoint?",
    "++foo.bar=1": "train has no setting foo. python -m segunet.train --help lists them.",
    "-m +foo=1,2": "train has no setting foo.",
    "+spam.max_epochs=3": "train has no setting spam.",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_wrong_setting_is_one_paragraph(run: Command, typed: str) -> None:
    result = run(predict, typed)
    assert result.status == 1
    assert WRONG[typed] in result.error
    assert result.error.startswith("error: ")


@pytest.mark.parametrize("typed", FLAGS)
def test_flags_by_habit_are_told_how_to_be_typed(run: Command, typed: str) -> None:
    result = run(predict, *shlex.split(typed))
    assert result.status == 1
    assert FLAGS[typed] in result.error


def test_a_command_without_a_setting_is_taken(run: Command) -> None:
    assert "Which checkpoint?" in run(predict).error


@pytest.mark.parametrize("typed", WRONG_OF_TRAIN)
def test_a_wrong_setting_of_groups_is_one_paragraph(run: Command, typed: str) -> None:
    result = run(train, *typed.split(" "))
    assert result.status == 1
    assert WRONG_OF_TRAIN[typed] in result.error


def test_the_advice_can_be_typed(run: Command) -> None:
    advice = run(predict, "input=forêt (1)=[a],b.jpg").error
    (typed,) = shlex.split(advice[advice.index("'input=") :])
    assert "Which checkpoint?" in run(predict, typed).error
    assert "forêt (1)=[a],b.jpg" in run(predict, typed, "checkpoint=here.ckpt").error


@pytest.mark.parametrize("added", ["+trainer.detect_anomaly=true", "++seed=3", "++data.batch_size=2"])
def test_what_may_be_added_is_taken(added: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", added])
    overrides.check_command_line("train")


def test_hydra_s_own_flags_are_left_to_hydra(run: Command) -> None:
    for flags in (["--cfg", "job"], ["--help"], ["--cfg", "job", "--resolve"]):
        result = run(predict, *flags, "tile=512")
        assert result.status == 0, result.error
        assert "tile: 512" in result.output
    assert "complete" in run(predict, "--shell-completion", "install=bash").output


def test_a_config_of_the_user_s_own_has_its_help(run: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [predict, _self_]\ntile: 640\nown: 1\n")
    for flags in (["--help"], ["--cfg", "job"]):
        result = run(predict, "--config-dir", str(tmp_path), "--config-name", "mine", "own=2", *flags)
        assert result.status == 0, result.error
        assert "tile: 640" in result.output
        assert "own: 2" in result.output


@pytest.mark.parametrize("sweep", ["-m", "hydra.mode=MULTIRUN"])
def test_a_sweep_may_have_several_values(run: Command, tmp_path: Path, sweep: str) -> None:
    result = run(summary, sweep, "measure=false", "depth=range(1,3)", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert result.status == 0, result.error
    assert (tmp_path / "sweep" / "1" / "job.json").is_file()


def test_a_training_without_a_choice_of_data_takes_the_sample_s_recipe(run: Command) -> None:
    for typed, experiment, lr, weights, epochs in (
        ("", "sample", 4e-3, None, 5),
        ("data.root=here optimizer=sgd", "sample", 0.01, None, 5),  # what is chosen is as its own file has it
        ("model=article", "sample", 4e-3, "imagenet", 5),
        ("data=sample", None, 1e-3, "imagenet", 50),
        ("data=sample optimizer=sgd", None, 0.01, "imagenet", 50),
        ("~experiment", None, 1e-3, "imagenet", 50),
        ("experiment=voc2012 data=sample", "voc2012", 5e-4, "imagenet", 60),
    ):
        overrides = with_recipe("train", ["train", *typed.split()])[1:]
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            cfg = compose("train", overrides, return_hydra_config=True)
        assert (cfg.hydra.runtime.choices.get("experiment"), cfg.optimizer.lr) == (experiment, lr), typed
        assert (cfg.model.encoder["weights"], cfg.trainer.max_epochs) == (weights, epochs), typed
        assert cfg.hydra.runtime.choices.data == "sample"
    assert with_recipe("train", ["", "-m", "seed=1,2", "--info"])[1:] == [
        "-m",
        "seed=1,2",
        "experiment=sample",
        "--info",
    ]
    assert "|sample*|" in run(train, "--help").output
    assert "Which checkpoint?" in run(predict).error


def test_a_config_is_composed_and_resolved_without_a_command() -> None:
    for name in ("data_dir", "outputs_dir", "length"):
        OmegaConf.clear_resolver(name)
    importlib.reload(overrides)
    assert overrides.composed("train", ["data=voc2012"]).model.num_classes == 21
