"""Prompts of a denoiser: names of what an image is to show, such as "disc, star", as hidden states.

Shapes: N prompts, V names of the vocabulary, D numbers in a hidden state.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segunet.base.errors import UserError


class PromptEncoder(nn.Module):
    """A hidden state for each name of the vocabulary: its own embedding where it is wanted, else one for "empty".

    Args:
        names: the vocabulary, V names.
        width: D.
    """

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.names = list(names)
        self.named = nn.Parameter(torch.randn(len(self.names), width))
        self.empty = nn.Parameter(torch.randn(width))

    def forward(self, present: Tensor) -> Tensor:
        """Return hidden states (N, V, D), in the weights' dtype, of ``present`` bool (N, V)."""
        return torch.where(present[..., None], self.named, self.empty)


def hidden_states(prompts: PromptEncoder | None, prompt: str, count: int) -> tuple[Tensor | None, Tensor | None]:
    """Return the hidden states of a prompt and of the empty one, each (count, V, D); None without an encoder.

    Raises:
        UserError: as :func:`parsed_prompt`.
    """
    if prompts is None:
        return None, None
    present = parsed_prompt(prompt, prompts.names).to(prompts.empty.device).expand(count, -1)
    return prompts(present), prompts(torch.zeros_like(present))


def parsed_prompt(prompt: str, names: Sequence[str]) -> Tensor:
    """Return which ``names`` a prompt has, bool (V,).

    Args:
        prompt: names with commas between them; order, repetition and spaces do not matter. "" is the empty prompt.
        names: the vocabulary, V names.

    Raises:
        UserError: a name that is not in the vocabulary.
    """
    wanted = {part.strip() for part in prompt.split(",")} - {""}
    if unknown := sorted(wanted - set(names)):
        raise UserError(
            f"prompt={prompt!r}: the network does not know {', '.join(unknown)}. It knows {', '.join(names)}; give any "
            "of them with commas between them."
        )
    return torch.tensor([name in wanted for name in names], dtype=torch.bool)


def check_names(names: Sequence[str]) -> None:
    """Raise a UserError for one of a vocabulary's ``names`` that no prompt can hold."""
    for name in names:
        if "," in name or name != name.strip() or not name:
            raise UserError(
                f"data.class_names: a prompt is names with commas between them, so that none can name {name!r}. Write "
                "the name without commas, and without spaces at its ends; an unconditional network "
                "(model.cross_attention_dim=null) takes any."
            )


def vocabulary_of(class_names: Sequence[str], ignore_index: int) -> dict[int, str]:
    """Return the names that prompts are made of, by class index: all but the background, 0, and the ignored class."""
    return {index: name for index, name in enumerate(class_names) if index not in (0, ignore_index)}


def present_in(masks: Tensor, indices: Sequence[int]) -> Tensor:
    """Return bool (N, V): which of the V classes ``indices`` the masks (N, H, W) show."""
    wanted = torch.tensor(indices, device=masks.device)
    return (masks.flatten(1)[:, None, :] == wanted[None, :, None]).any(dim=-1)
