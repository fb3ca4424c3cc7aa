"""Names of other projects' state dicts: what is found, taken off, and refused."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from segunet.base.errors import UserError
from segunet.models.state_dicts import ORIGINS, resnet_depth, state_dict_in, to_segunet, with_background, wrappers_in
from tests.models.test_unet import ArticleUNet, article_names, from_conf

ARTICLE, SMP = ORIGINS["article"], ORIGINS["smp"]


def tensors(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(2) for name in names}


@pytest.fixture(scope="module")
def article() -> dict[str, Tensor]:
    with torch.device("meta"):
        return ArticleUNet().state_dict()


@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict", "model"])
def test_the_state_dict_is_found_where_training_scripts_put_it(container: str | None) -> None:
    wanted = tensors("a.weight", "a.bias")
    content = wanted if container is None else {container: wanted, "epoch": 3, "optimizer": {"state": {}}}
    assert state_dict_in(content).keys() == wanted.keys()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        torch.zeros(2),
        {"state_dict": {}},
        {"weights": tensors("a")},
        {"a": 1},
        {0: torch.zeros(2)},
        {"model": tensors("a"), "state_dict": tensors("b")},
    ],
)
def test_no_state_dict_or_two_are_refused(content: Any) -> None:
    with pytest.raises(UserError, match=r"wanted a state dict.*it holds"):
        state_dict_in(content)


@pytest.mark.parametrize("wrapper", ["", "module.", "model.", "net.", "model.module.", "model._orig_mod."])
def test_what_wraps_a_network_is_found(wrapper: str) -> None:
    state = tensors(f"{wrapper}encoder.conv1.weight", f"{wrapper}segmentation_head.0.bias", "criterion.weight", "mean")
    assert wrappers_in(state, SMP) == {wrapper}
    assert wrappers_in(state, ARTICLE) == set()


def test_two_networks_are_two() -> None:
    assert wrappers_in(tensors("net.encoder.conv1.weight", "model.encoder.conv1.weight"), SMP) == {"net.", "model."}


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_a_resnet_s_depth_is_read_off_its_names(depth: int) -> None:
    with torch.device("meta"):
        resnet = torchvision.models.get_model(f"resnet{depth}", weights=None)
    assert resnet_depth({f"encoder.{name}": value for name, value in resnet.state_dict().items()}) == depth


def test_every_tensor_of_the_article_gets_the_name_that_its_definition_gives(article: dict[str, Tensor]) -> None:
    own = from_conf("article").state_dict()
    assert {ARTICLE.name_of(article_names(name)) for name in article} == set(article)
    assert set(to_segunet(article, ARTICLE, own, [])) == own.keys() - {"mean", "std"}


def test_only_the_skips_of_smp_change_places() -> None:
    torch.manual_seed(0)
    state = smp.Unet("resnet50", encoder_weights=None, classes=21).state_dict()
    got = to_segunet(state, SMP, from_conf("smp").state_dict(), [1024, 512, 256, 64])
    changed = [name for name, value in got.items() if not torch.equal(value, state[SMP.name_of(name)])]
    assert changed == [f"decoder.steps.{i}.conv1.0.weight" for i in range(4)]
    theirs, ours = state["decoder.blocks.0.conv1.0.weight"], got["decoder.steps.0.conv1.0.weight"]
    assert torch.equal(ours, torch.cat([theirs[:, 2048:], theirs[:, :2048]], dim=1))


def test_counters_of_batches_may_be_absent(article: dict[str, Tensor]) -> None:
    old = {name: value for name, value in article.items() if "num_batches_tracked" not in name}
    assert len(to_segunet(old, ARTICLE, from_conf("article").state_dict(), [])) == len(old) < len(article)


def test_what_does_not_fit_is_listed_by_the_names_there(article: dict[str, Tensor]) -> None:
    wrong = article | {"extra.weight": torch.zeros(1), "up_conv.1.bias": torch.zeros(5)}
    del wrong["up_concat4.conv2.weight"]
    with pytest.raises(UserError) as caught:
        to_segunet(wrong, ARTICLE, from_conf("article").state_dict(), [])
    message = str(caught.value)
    assert "1 missing (up_concat4.conv2.weight)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "1 of another shape (up_conv.1.bias is (5,), wanted (64,))" in message


def test_one_logit_of_a_sigmoid_is_two_of_a_softmax() -> None:
    weight, bias = torch.randn(1, 4, 1, 1), torch.randn(1)
    state = {"segmentation_head.0.weight": weight, "segmentation_head.0.bias": bias, "encoder.conv1.weight": weight}
    two = with_background(state, SMP)
    assert torch.equal(two["encoder.conv1.weight"], weight)
    x = torch.randn(2, 4, 3, 3)
    got = F.conv2d(x, two["segmentation_head.0.weight"], two["segmentation_head.0.bias"]).softmax(dim=1)
    torch.testing.assert_close(got[:, 1:], F.conv2d(x, weight, bias).sigmoid())
