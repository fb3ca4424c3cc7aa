"""Prompts: read, encoded, and found in masks."""

import pytest
import torch

from segunet.base.errors import UserError
from segunet.models.prompts import PromptEncoder, parsed_prompt, present_in, vocabulary_of

NAMES = ["disc", "star", "ring"]


@pytest.mark.parametrize("prompt", ["disc, ring", "ring,disc", " ring ,disc,disc,", "disc,,ring"])
def test_order_repetition_and_spaces_do_not_matter(prompt: str) -> None:
    assert parsed_prompt(prompt, NAMES).tolist() == [True, False, True]


def test_nothing_is_the_empty_prompt() -> None:
    assert parsed_prompt("", NAMES).tolist() == [False] * 3


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"does not know sun\. It knows disc, star, ring"):
        parsed_prompt("disc, sun", NAMES)


def test_a_token_is_the_name_s_own_or_the_empty_one() -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(NAMES, 8)
    hidden = encoder(torch.tensor([[True, False, True], [False, False, False]]))
    assert hidden.shape == (2, 3, 8)
    assert torch.equal(hidden[0], torch.stack([encoder.named[0], encoder.empty, encoder.named[2]]))
    assert torch.equal(hidden[1], encoder.empty.expand(3, 8))


def test_the_vocabulary_has_neither_background_nor_ignored_class() -> None:
    assert vocabulary_of(["background", *NAMES], 255) == {1: "disc", 2: "star", 3: "ring"}
    assert vocabulary_of(["background", *NAMES], 2) == {1: "disc", 3: "ring"}


def test_the_classes_of_a_mask_are_found() -> None:
    masks = torch.zeros(3, 4, 4, dtype=torch.uint8)
    masks[0, 0, 0], masks[0, 1, 1], masks[1] = 1, 255, 3
    assert present_in(masks, [1, 2, 3]).tolist() == [[True, False, False], [False, False, True], [False] * 3]
