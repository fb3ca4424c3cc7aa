"""Configs of runs to resume that are damaged, or that somebody else wrote."""

import copy
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from segunet import train
from segunet.base.errors import UserError
from segunet.cli.overrides import composed
from segunet.inference.checkpoint import read_checkpoint
from segunet.training import build
from segunet.training.build_callbacks import callbacks_from_config
from segunet.training.build_trainer import trainer_from_config
from segunet.training.checkpoints import RunCheckpoint
from segunet.training.resume import check_finite, check_same_network, progress_in
from segunet.training.saved_config import ConfigParser, naming
from tests.commands import CHECKPOINTS, Command
from tests.runs import scalars

Place = tuple[str, ...]


@pytest.fixture(scope="module")
def saved(trained: Path) -> dict[str, Any]:
    config = OmegaConf.to_container(OmegaConf.load(trained / "config.yaml"))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


@pytest.fixture(scope="module")
def model(trained: Path) -> dict[str, Any]:
    """Return the network's config as a checkpoint has it."""
    content = read_checkpoint(trained / "checkpoints" / "last.ckpt")
    return content["segunet"]["model"]  # type: ignore[no-any-return]


def places(config: dict[str, Any], above: Place = ()) -> Iterator[Place]:
    for key, value in config.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def with_value(config: dict[str, Any], place: Sequence[str], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    node = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return changed


def build_all(trained: Path, config: dict[str, Any], model: dict[str, Any], group: str) -> None:
    """Build what a resumed run is made of, of those parts that ``group`` has to do with."""
    path = trained / "config.yaml"
    cfg = ConfigParser(path).checked(config)
    with naming(path):
        build.check_settings(cfg)
        check_same_network(cfg.model, model, path)
        datamodule = build.datamodule_from_config(cfg)
    if group == "data":
        datamodule.setup("fit")
    with naming(path):
        if group in ("loss", "optimizer", "lr_schedule"):
            build.task_from_config(cfg, datamodule, resumed=True)
        callbacks = callbacks_from_config(cfg, datamodule, trained)
        trainer_from_config(cfg, callbacks, trained)


def test_a_config_of_today_is_read_as_it_is(trained: Path, saved: dict[str, Any], tmp_path: Path) -> None:
    assert ConfigParser(trained / "config.yaml").parse() == saved
    for choices in ("article focal_dice sgd article voc2012", "smp ce adam warmup_cosine sample"):
        groups = ("model", "loss", "optimizer", "lr_schedule", "data")
        config = composed("train", [f"{group}={choice}" for group, choice in zip(groups, choices.split(), strict=True)])
        (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
        assert ConfigParser(tmp_path / "config.yaml").parse() == OmegaConf.to_container(config, resolve=True)


NEVER = [math.nan, 10**12, {"a": 1}, [[[1]]], "${oc.env:HOME}", {"_target_": "os.system", "command": "touch ran"}]
OTHERS = [None, "abc", [1, 2], [], -1, True, 10**6]


def test_large_values_that_a_run_may_have_are_taken(trained: Path, saved: dict[str, Any]) -> None:
    for place, value in ((("data", "image_range"), [0, 65535]), (("inference_size",), 20_000)):
        cfg = ConfigParser(trained / "config.yaml").checked(with_value(saved, place, value))
        assert OmegaConf.select(cfg, ".".join(place)) == value


def test_the_levels_of_rasters_may_be_large(trained: Path, saved: dict[str, Any]) -> None:
    data = saved["data"] | {"bands": 2, "image_range": [[-200_000.5, 3_000_000.0], [0, 1]]}
    read = ConfigParser(trained / "config.yaml").checked(saved | {"data": data})
    assert read.data.image_range == [[-200_000.5, 3_000_000.0], [0, 1]]


def test_a_value_that_no_run_can_have_is_refused_with_its_key(trained: Path, saved: dict[str, Any]) -> None:
    everything = list(places(saved))
    for place in everything:
        for damage in NEVER:
            with pytest.raises(UserError) as error:
                ConfigParser(trained / "config.yaml").checked(with_value(saved, place, damage))
            assert str(trained / "config.yaml") in str(error.value), (place, damage)
            assert place[-1] in str(error.value), (place, damage)
    assert len(everything) > 80


def refusal(build: Callable[[], Any]) -> str:
    """Return the text of the UserError that ``build`` ends with; empty if with none."""
    try:
        build()
    except UserError as error:
        return str(error)
    return ""


def test_a_value_of_another_kind_is_refused_or_taken_but_no_traceback(
    trained: Path, saved: dict[str, Any], model: dict[str, Any]
) -> None:
    texts = []
    for number, place in enumerate(places(saved)):
        for damage in OTHERS[number % 2 :: 2]:
            config = with_value(saved, place, damage)
            if text := refusal(lambda config=config, group=place[0]: build_all(trained, config, model, group)):  # type: ignore[misc]
                assert place[0] in text or place[-1] in text, (place, damage, text)
                texts.append(text)
    assert len(texts) > 200


def test_what_is_missing_is_named(trained: Path, saved: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    parser = ConfigParser(trained / "config.yaml")
    for place in places(saved):
        if place == ("logger", "tensorboard"):
            continue  # a run need not have that logger
        config = with_value(saved, place, None)
        parent = config
        for key in place[:-1]:
            parent = parent[key]
        del parent[place[-1]]
        caplog.clear()
        assert ".".join(place) in (refusal(lambda config=config: parser.checked(config)) or caplog.text)  # type: ignore[misc]


def test_a_key_that_no_run_has_is_refused(trained: Path, saved: dict[str, Any]) -> None:
    groups = {place[:-1] for place in places(saved)}
    assert len(groups) > 10
    for group in groups:
        for key in ("unknown", "_args_", "_recursive_", "_convert_"):
            with pytest.raises(UserError, match=key):
                ConfigParser(trained / "config.yaml").checked(with_value(saved, (*group, key), []))


def test_a_class_that_the_user_names_or_trusts_is_taken(
    trained: Path, saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = with_value(
        saved, ("optimizer", "optimizer"), {"_target_": "torch.optim.RMSprop", "_partial_": True, "alpha": 0.9}
    )
    path = trained / "config.yaml"
    with pytest.raises(UserError, match=r"torch\.optim\.RMSprop.*SEGUNET_TRUSTED_PACKAGES"):
        ConfigParser(path).checked(mine)
    assert ConfigParser(path, ["optimizer.optimizer._target_=torch.optim.RMSprop"]).checked(mine) == mine
    monkeypatch.setenv("SEGUNET_TRUSTED_PACKAGES", "torch")
    assert ConfigParser(path).checked(mine) == mine
    with pytest.raises(UserError, match=r"optimizer\.optimizer\.beta"):
        ConfigParser(path).checked(with_value(mine, ("optimizer", "optimizer", "beta"), 1))


def test_a_file_that_is_no_config_is_one_paragraph(tmp_path: Path) -> None:
    code = b"a: !!python/object/apply:os.system [true]\n"
    nested = b"a: " + b"[" * 100_000
    for content in (
        *(b"", b"\xff\xfe\x00", b"a: [1", b"- 1\n", b"text", b"\0", b"a: &a [1]\nb: *a\n", b"a: b: c"),
        *(b"x" * 2**21, b"a: " + b"9" * 5000, b"1: 2", b"a: ${", nested, code),
    ):
        (tmp_path / "config.yaml").write_bytes(content)
        text = refusal(ConfigParser(tmp_path / "config.yaml").parse)
        assert str(tmp_path / "config.yaml") in text
        assert len(text) < 600


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of a run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("voc")))


def test_code_that_a_foreign_config_names_is_not_run(run: Command, run_dir: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    config.data.transform = {"_target_": "os.system", "command": f"touch {tmp_path / 'ran'}"}
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert result.status == 1
    assert f"{run_dir / 'config.yaml'}: data.transform._target_ is 'os.system'" in result.error
    config.data.transform = "none"
    OmegaConf.save(config, run_dir / "config.yaml")
    assert "data.transform is 'none'" in run(train, f"resume={run_dir}", "trainer.max_epochs=3").error
    assert not (tmp_path / "ran").exists()


def test_paths_in_a_foreign_checkpoint_lead_nowhere(run: Command, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").touch()
    last = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    path = str(run_dir / "checkpoints" / ".." / ".." / "victim")
    states = [state for name, state in content["callbacks"].items() if "Checkpoint" in name]
    for state in states:
        state |= {"dirpath": str(run_dir / "checkpoints"), "best_model_path": path, "kth_best_model_path": path}
        state |= {"last_model_path": path, "best_k_models": {path: torch.tensor(-1.0)}, "kth_value": torch.tensor(-1.0)}
        state["best_model_score"] = torch.tensor(-1.0)  # so that the next one is better and replaces it
    assert len(states) == 2
    torch.save(content, last)
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert result.status == 0, result.error
    assert (tmp_path / "victim" / "file").exists()
    assert sorted(path.name for path in last.parent.iterdir()) == CHECKPOINTS
    assert torch.load(last.with_name("best.ckpt"), weights_only=True)["epoch"] == 2


def test_a_state_that_no_training_saved_is_one_paragraph(run: Command, run_dir: Path) -> None:
    last = run_dir / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    mean = content["state_dict"]["net.mean"]
    other_shape = copy.deepcopy(content["optimizer_states"])
    other_shape[0]["state"][0]["exp_avg"] = torch.zeros(5)
    last.unlink()
    damages: list[tuple[Place, Any]] = [
        (("epoch",), "1"),
        (("callbacks",), "all"),
        (("loops",), {}),
        (("segunet", "model"), ({"_target_": "os.system"},)),
        (("segunet",), "none"),
        (("state_dict", "net.mean"), mean * math.nan),
        (("state_dict", "net.mean"), mean[0]),
        (("optimizer_states",), "all"),
        (("loops", "fit_loop", "epoch_loop.state_dict"), "all"),
        (("optimizer_states",), other_shape),
    ]
    for place, value in damages:
        torch.save(with_value(content, place, value), last)
        result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
        assert result.status == 1, place
        assert result.error.startswith(f"error: {last}"), (place, result.error)
    last.write_bytes(b"cut short")
    last.with_name("previous.ckpt").unlink()
    assert "restore that file" in run(train, f"resume={run_dir}", "trainer.max_epochs=3").error


def test_counts_that_no_training_has_are_refused(trained: Path) -> None:
    path = trained / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    assert progress_in(content, path).epochs == 2
    ready = ("loops", "fit_loop", "epoch_progress", "current", "ready")
    for place in (("epoch",), ("global_step",), ready):
        for value in (10**9, 10**12, -5, 1.5, None, "1", math.nan, [1], torch.zeros(3)):
            with pytest.raises(UserError, match=r"last\.ckpt"):
                progress_in(with_value(content, place, value), path)


def test_containers_that_are_nested_into_each_other_take_no_time() -> None:
    nested: list[Any] = [torch.tensor(math.nan)]
    for _ in range(60):
        nested = [nested, nested]
    with pytest.raises(UserError, match="state_dict contains NaN"):
        check_finite({"state_dict": nested}, Path("last.ckpt"))


def test_loops_that_are_nested_deeply_are_refused(trained: Path) -> None:
    path, loops = trained / "checkpoints" / "last.ckpt", dict[str, Any]()
    for _ in range(3000):
        loops = {"deeper": loops}
    with pytest.raises(UserError, match="has no valid training progress"):
        progress_in(read_checkpoint(path) | {"loops": {"fit_loop": loops}}, path)


def test_a_resumed_run_writes_no_data_set_that_its_config_names(run: Command, run_dir: Path, tmp_path: Path) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    config.data._target_ = "segunet.data.datamodule.SampleDataModule"
    config.data.root = str(tmp_path / "elsewhere")
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert f"data.root is {tmp_path / 'elsewhere'}, which does not exist" in result.error
    assert not (tmp_path / "elsewhere").exists()


def test_a_score_that_is_none_or_has_lost_its_checkpoint_is_forgotten(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path)
    for score in ("0.5", torch.zeros(2), 0.5, [1]):
        best = RunCheckpoint(tmp_path, "best", monitor="val/miou", mode="max")
        best.load_state_dict({"best_model_score": score, "best_model_path": "/nowhere"})
        assert (best.best_model_path, best.best_model_score, best.best_k_models) == ("", None, {})
    (tmp_path / "best.ckpt").unlink()
    best.load_state_dict({"best_model_score": torch.tensor(0.5)})
    assert best.best_k_models == {}
    assert caplog.text.count("The checkpoint of the next validation becomes the best") == 5
    assert f"There is no checkpoint {tmp_path / 'best.ckpt'}" in caplog.text


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/last.ckpt", "metrics.json", "train.log"])
def test_nothing_is_written_through_a_link_out_of_the_run_s_folder(
    run: Command, run_dir: Path, tmp_path: Path, name: str
) -> None:
    (run_dir / name).rename(tmp_path / "elsewhere")
    (run_dir / name).symlink_to(tmp_path / "elsewhere")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert result.status == 1
    assert f"{run_dir / name} leads out of its folder, to {tmp_path / 'elsewhere'}" in result.error


def test_tensorboard_s_files_stay_in_the_run_s_folder(run: Command, run_dir: Path) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    config.logger.tensorboard.version = "../../elsewhere"
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert "leads out of its folder" in result.error
    assert not (run_dir.parent / "elsewhere").exists()


def test_a_run_of_the_version_with_one_logger_goes_on(run: Command, run_dir: Path) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    config.logger = config.logger.tensorboard
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert result.status == 0, result.error
    assert len(scalars(run_dir, "val/miou")) == 3


def test_a_run_of_a_version_without_rasters_goes_on(run: Command, run_dir: Path) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    for node, names in (
        (config.data, ("bands", "mean", "std")),
        (config.data.transform, ("bands",)),
        (config.model.encoder, ("in_channels",)),
    ):
        for name in names:
            del node[name]
    levels = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    config.model.update(levels)
    content = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    content["segunet"]["model"] |= levels
    del content["segunet"]["model"]["encoder"]["in_channels"], content["segunet"]["data"]["bands"]
    torch.save(content, run_dir / "checkpoints" / "last.ckpt")
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert result.status == 0, result.error
    assert "lacks settings, which are as in a new run: model.encoder.in_channels=3" in result.output
    assert len(scalars(run_dir, "val/miou")) == 3


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("wandb", {"log_model": "all"}, "logger.wandb.log_model is not a setting"),
        (
            "other",
            {},
            "logger.other._target_ is 'pytorch_lightning.loggers.WandbLogger', a class that conf/ does not have there",
        ),
    ],
)
def test_a_foreign_config_cannot_send_weights_to_the_web(
    run: Command, run_dir: Path, name: str, settings: dict[str, str], words: str
) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    config.logger[name] = {"_target_": "pytorch_lightning.loggers.WandbLogger", **settings}
    OmegaConf.save(config, run_dir / "config.yaml")
    result = run(train, f"resume={run_dir}", "trainer.max_epochs=3")
    assert (result.status, words in result.error) == (1, True), result.error


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def swap(path: Path) -> None:
    """Put a folder in a file's place, and a file in a folder's."""
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()


DAMAGE = (cut, zero, Path.unlink, swap)
NEEDED = ("config.yaml", "checkpoints/last.ckpt")
REPLACED = ("checkpoints/best.ckpt", "metrics.json", "train.log", "report.html", "per_image.csv")


def test_a_damaged_run_is_refused_or_goes_on_without_a_traceback(run: Command, trained: Path, tmp_path: Path) -> None:
    def damaged(what: Callable[[Path], object], *names: str) -> Any:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("voc"))
        for name in names:
            what(folder / name)
        return run(train, f"resume={folder}", "trainer.max_epochs=3", "trainer.limit_train_batches=1")

    for damage in DAMAGE:
        for name in NEEDED:
            result = damaged(damage, name, "checkpoints/previous.ckpt")
            assert (result.status, result.error[:7]) == (1, "error: "), (damage, name, result)
            assert name in result.error, (damage, name, result)
            assert "best.ckpt, if intact" in result.error or damage is not zero or name == "config.yaml"
        if damage is not swap:
            result = damaged(damage, "checkpoints/last.ckpt")
            assert result.status == 0, (damage, result)
            assert "previous.ckpt, the checkpoint before it." in result.output
            assert "best epoch: " in result.output
            events = next(trained.glob("events*")).relative_to(trained)
            result = damaged(damage, *REPLACED, str(events))
            assert result.status == 0, (damage, result)
            assert "best.ckpt" in result.output
            assert "of the next validation becomes the best" in result.output
            assert "best epoch: 3" in result.output
    assert "job.json is not a valid job file" in damaged(lambda path: path.write_text("{"), "job.json").error
    for name in REPLACED:
        result = damaged(swap, name)
        assert result.status == 1, (name, result)
        assert f"{name} is a " in result.error


def test_a_diverged_run_is_not_resumed(run: Command, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("voc"))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for name in ("state_dict", "optimizer_states"):
        content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
        tensors = content[name] if name == "state_dict" else content[name][0]["state"][0]
        tensors[list(tensors)[-1]].fill_(math.nan)
        torch.save(content, last)
        error = run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=3").error
        assert f"{last}: its {name} contains NaN" in error


def test_what_a_run_began_with_and_what_it_is_resumed_with_are_compared(
    run: Command, trained: Path, tmp_path: Path
) -> None:
    folder, voc = tmp_path / "run", tmp_path / "voc"
    shutil.copytree(trained / "voc", voc)
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("voc"))
    config, lists = folder / "config.yaml", voc / "ImageSets" / "Segmentation"
    text = config.read_text().replace(str(trained / "voc"), str(voc))
    names = "  - background\n  - disc\n  - square\n"
    assert names in text
    for changed, said in (
        ("  - background\n  - square\n  - disc\n", "'square' for class 1, but 'disc'"),
        ("  - background\n  - disc\n  - box\n", "'box' for class 2, but 'square'"),
    ):
        config.write_text(text.replace(names, changed))
        assert said in run(train, f"resume={folder}", "trainer.max_epochs=3").error
    config.write_text(text)
    began = {split: (lists / f"{split}.txt").read_text().split() for split in ("train", "val")}
    (lists / "train.txt").write_text("\n".join(began["train"][:-1]))
    (lists / "val.txt").write_text("\n".join(began["val"][::-1]))
    result = run(train, f"resume={folder}", "trainer.max_epochs=3", "trainer.limit_train_batches=1")
    assert result.status == 0, result.error
    assert f"list train of {voc} has changed since the run started: it had 6 names, now it has 5" in result.output
    assert f"list val of {voc} has changed since the run started: its names are in another order" in result.output
