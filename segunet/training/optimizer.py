"""Parameter groups: the encoder has its own learning rate, norms and biases have no weight decay."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from segunet.base.errors import UserError
from segunet.base.validation import Above0, AtLeast0, checked


@checked("optimizer")
@dataclass(frozen=True)
class OptimizerFactory:
    """Create the optimizer of a network.

    Attributes:
        optimizer: called with the parameter groups; a ``torch.optim`` class with its settings.
        lr: peak learning rate.
        encoder_lr: peak learning rate of ``net.encoder``; None for ``lr``.
        weight_decay: decay of weights with two or more dimensions; norms and biases have none.
        layer_decay: factor from the rate of an encoder's stage to that of the one before it; 1 for one rate.

    Raises:
        UserError: a rate that is not above 0, a decay below 0; when called, settings that ``optimizer`` rejects.
    """

    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    lr: Above0
    encoder_lr: Above0 | None = None
    weight_decay: AtLeast0 = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    def __call__(self, net: nn.Module, *others: nn.Module) -> Optimizer:
        """Return the optimizer of all parameters, frozen ones too, so that they can be unfrozen.

        Args:
            net: the network.
            others: what is trained beside it, at ``lr``.
        """
        try:
            return self.optimizer(list(self._groups(net, others)))
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(f"optimizer.optimizer.*: torch does not accept these settings: {error}") from error

    def _groups(self, net: nn.Module, others: Sequence[nn.Module]) -> Iterator[dict[str, Any]]:
        inside = [p for name, p in net.named_parameters() if name.startswith("encoder.")]
        outside = [p for name, p in net.named_parameters() if not name.startswith("encoder.")]
        outside += [p for other in others for p in other.parameters()]
        stages = [inside] if self.layer_decay == 1 else self._stages(net, inside)
        rates = [(self.encoder_lr or self.lr) * self.layer_decay**depth for depth in range(len(stages))][::-1]
        named = [("encoder", lr, params) for lr, params in zip(rates, stages, strict=True)]
        for name, lr, mine in [*named, ("decoder", self.lr, outside)]:
            decayed = [p for p in mine if p.ndim > 1]
            plain = [p for p in mine if p.ndim <= 1]
            for params, decay in ((decayed, self.weight_decay), (plain, 0.0)):
                if params:
                    yield {"params": params, "lr": lr, "weight_decay": decay, "name": name}

    def _stages(self, net: nn.Module, inside: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
        """Return the encoder's parameters by stage, that of the input first.

        Raises:
            UserError: the encoder does not list its stages, or a parameter is in none of them.
        """
        stages = getattr(getattr(net, "encoder", None), "stages", None)
        listed = stages if isinstance(stages, list | nn.ModuleList) else []
        stage_of = {p: number for number, stage in enumerate(listed) for p in stage.parameters()}
        if not inside or any(p not in stage_of for p in inside):
            raise UserError(
                f"optimizer.layer_decay={self.layer_decay} needs a model whose encoder lists its stages, with all of "
                "its parameters, as ResNetEncoder does. Set it to 1."
            )
        return [[p for p in inside if stage_of[p] == number] for number in range(len(listed))]
