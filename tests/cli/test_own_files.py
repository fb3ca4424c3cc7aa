"""Config files of one's own, given as data=PATH.yaml and experiment=PATH.yaml."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from segunet import check_data, train
from segunet.base.errors import UserError
from segunet.base.paths import CONF_DIR
from segunet.cli.overrides import composed
from segunet.cli.own_files import with_own_files
from segunet.training import build
from tests.commands import TINY, Command

DATA = """\
root: ../voc
class_names: [background, "it's 1, 2", "on", 'say "hi" \\']
palette: [[0, 0, 0], [9, 8, 7], [1, 2, 3], [4, 5, 6]]
mask_values: {0: 0, 255: 1, 7: 2, 8: 3}
ignore_index: 254
transform:
  crop_size: 96
  scale: [0.9, 1.1]
batch_size: 4
image_range: null
"""


def config_of(*words: str) -> Any:
    """Return the config that the words on the command line of segunet.train give."""
    return composed("train", with_own_files(["train.py", *words])[1:])


def test_a_data_set_s_file_says_only_what_differs_from_custom(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    file = tmp_path / "sets" / "mine.yaml"
    file.write_text(DATA)
    cfg = config_of("data.batch_size=3", f"data={file}", "seed=5")
    wanted = OmegaConf.to_container(composed("train", ["data=custom", "data.root=.", "data.class_names=[a,b]"]).data)
    content = OmegaConf.to_container(OmegaConf.create(DATA))
    assert isinstance(wanted, dict)
    assert isinstance(content, dict)
    wanted |= content | {"transform": wanted["transform"] | content["transform"], "batch_size": 3}
    wanted["root"] = str(tmp_path / "voc")  # relative to the file
    assert OmegaConf.to_container(cfg.data) == wanted
    assert cfg.seed == 5
    assert build.datamodule_from_config(cfg).form.values == {0: 0, 255: 1, 7: 2, 8: 3, 254: 254}


def test_a_data_set_s_file_can_be_a_copy_of_custom_with_another_augmentation(tmp_path: Path) -> None:
    text = (CONF_DIR / "data" / "custom.yaml").read_text()
    assert "transform: basic" in text
    (tmp_path / "mine.yaml").write_text(text.replace("transform: basic", "transform: strong"))
    words = ["data.root=/data", "data.class_names=[a,b]"]
    assert config_of(f"data={tmp_path / 'mine.yaml'}", *words) == config_of(
        "data=custom", "data/transform=strong", *words
    )


def test_a_recipe_s_file_is_like_those_in_conf(tmp_path: Path) -> None:
    for path in (CONF_DIR / "experiment").glob("*.yaml"):
        shutil.copy(path, tmp_path / "mine.yaml")
        assert config_of(f"experiment={tmp_path / 'mine.yaml'}") == config_of(f"experiment={path.stem}"), path
    (tmp_path / "short.yml").write_text(
        "model: article\nseed: 3\nloss: {pixelwise: {_target_: my.Loss, alpha: 0.5}}\nrun_dir: a b\n"
    )
    cfg = config_of(f"experiment={tmp_path / 'short.yml'}", "seed=4")
    assert (cfg.seed, cfg.run_dir, cfg.loss.pixelwise.alpha) == (4, "a b", 0.5)
    assert cfg.model == composed("train", ["model=article"]).model


def test_a_recipe_s_file_can_name_a_data_set_s_beside_it(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("root: voc\nclass_names: [a, b]\n")
    (tmp_path / "mine.yaml").write_text("defaults: [override /data: data.yaml, override /model: article]\nseed: 3\n")
    cfg = config_of(f"experiment={tmp_path / 'mine.yaml'}")
    assert (cfg.data.root, cfg.seed) == (str(tmp_path / "voc"), 3)
    assert cfg.model == config_of("model=article", "data=custom", "data.root=.", "data.class_names=[a,b]").model


def test_flags_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("root: /data\n")
    words = ["train.py", "-m", f"data={tmp_path / 'mine.yaml'}", "seed=1,2", "--cfg", "job"]
    assert with_own_files(words) == ["train.py", "-m", "data=custom", 'data.root="/data"', "seed=1,2", "--cfg", "job"]
    assert with_own_files(["train.py", "data=custom"]) == ["train.py", "data=custom"]


def test_a_recipe_s_file_takes_the_place_of_the_sample_s(run: Command, voc_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"data: {{root: '{voc_folder}', class_names: [a, b, c]}}\nseed: 3\n")
    result = run(train, f"experiment={tmp_path / 'mine.yaml'}", "data=custom", "--cfg", "job")
    assert result.status == 0, result.error
    cfg = OmegaConf.create(result.output)
    assert (cfg.seed, cfg.trainer.max_epochs) == (3, composed("train", []).trainer.max_epochs)


def test_what_is_typed_replaces_the_file_s_mapping(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("root: voc\nclass_names: [a, b]\nmask_values: {-1: 255, 0: 0, 1: 1}\n")
    words = with_own_files(["train.py", f"data={file}", "data.mask_values={5:1,0:0}"])
    assert composed("train", words[1:]).data.mask_values == {5: 1, 0: 0}
    assert composed("train", with_own_files(["train.py", f"data={file}"])[1:]).data.mask_values[-1] == 255
    words = with_own_files(["train.py", f"data={file}", "++data.mask_values={5:1,0:0}"])
    assert composed("train", words[1:]).data.mask_values == {5: 1, 0: 0}


@pytest.mark.parametrize(
    "content", [None, "[1, 2]", "a: [", "{", "defaults: [voc2012]", "defaults: [{data: custom}]", "defaults: a"]
)
def test_a_file_that_is_no_settings_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        with_own_files(["train.py", f"experiment={tmp_path / 'mine.yaml'}"])


@pytest.mark.usefixtures("voc_folder")
def test_the_commands_take_it(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "my data.yaml"
    file.write_text("root: voc\nclass_names: [background, disc, square]\nbatch_size: 2\nnum_workers: 0\n")
    own = [each for each in TINY if not each.startswith(("data=", "data.class_names", "data.batch_size"))]
    result = run(check_data, f"data={file}", f"run_dir={tmp_path / 'check'}")
    assert result.status == 0, result.error
    assert f"train:     python -m segunet.train 'data={file}'\n" in result.output  # not the settings in it
    result = run(train, f"data={file}", *own, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}")
    assert result.status == 0, result.error
    assert run(train, f"resume={tmp_path / 'run'}", "trainer.max_epochs=2").status == 0
    file.write_text("root: voc\nclass_name: [background, disc, square]\n")
    said = run(train, f"data={file}").error
    assert "train has no setting data.class_name. Did you mean data.class_names?" in said
    assert f"Settings are also read from {file}." in said
    file.write_text("data: {root: voc}\n")
    assert "leave out 'data:'" in run(train, f"data={file}").error
