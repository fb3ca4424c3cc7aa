"""Parameter groups: the encoder has its own learning rate, norms and biases have no weight decay."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

    Raises:
        UserError: a rate that is not above 0, a decay below 0; when called, settings that ``optimizer`` rejects.
    """

    optimizer: Callable[[list[dict[str, Any]]], Optimizer]
    lr: Above0
    encoder_lr: Above0 | None = None
    weight_decay: AtLeast0 = 0.0

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
        for part, lr in (("encoder", self.encoder_lr or self.lr), ("decoder", self.lr)):
            mine = [p for name, p in net.named_parameters() if name.startswith("encoder.") == (part == "encoder")]
            mine += [p for other in others for p in other.parameters() if part == "decoder"]
            decayed = [p for p in mine if p.ndim > 1]
            plain = [p for p in mine if p.ndim <= 1]
            for params, decay in ((decayed, self.weight_decay), (plain, 0.0)):
                if params:
                    yield {"params": params, "lr": lr, "weight_decay": decay, "name": part}
