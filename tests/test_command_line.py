"""What is wrong with a command line, said before Hydra does."""

import shlex

import pytest

from segunet import predict, train
from tests.commands import Command

WRONG = {
    "chekpoint=x": "predict has no setting chekpoint. Did you mean checkpoint?",
    "tta": "tta cannot be read as a setting. Settings are typed as name=value.",
    "hydra.job.nam=x": "predict has no setting hydra.job.nam.",
    "input=a=b.jpg": "input=a=b.jpg cannot be read as a setting. Type it as 'input=\"a=b.jpg\"'",
    "input=forêt.jpg": "'input=\"forêt.jpg\"'",
    "input=a,b.jpg": "'input=\"a,b.jpg\"'",
}
WRONG_OF_TRAIN = {
    "trainer.max_epoch=3": "train has no setting trainer.max_epoch. Did you mean trainer.max_epochs?",
    "optimzer=sgd": "Did you mean optimizer?",
    "optimizer=adm": "optimizer=adm: there is no such optimizer. Give one of adam, adamw, sgd.",
    "optimizer=null": "Config group override must be",
    "model=article model.decoder.width=1": "Did you mean model.decoder.widths?",
    "data.class_names=a,b": "A list is typed as 'data.class_names=[a,b]'",
}


@pytest.mark.parametrize("typed", WRONG)
def test_a_wrong_setting_is_one_paragraph(run: Command, typed: str) -> None:
    result = run(predict, typed)
    assert result.status == 1
    assert WRONG[typed] in result.error
    assert result.error.startswith("error: ")


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


def test_hydra_s_own_flags_are_left_to_hydra(run: Command) -> None:
    for flags in (["--cfg", "job"], ["--help"], ["--cfg", "job", "--resolve"]):
        result = run(predict, *flags, "tile=512")
        assert result.status == 0, result.error
        assert "tile: 512" in result.output
