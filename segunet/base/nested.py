"""Walk nested containers."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor


def leaves(config: Any, name: str = "") -> dict[str, Any]:
    """Return the values that are not mappings, by dotted name."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= leaves(value, f"{name}{key}.") if isinstance(value, Mapping) else {f"{name}{key}": value}
    return found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in mappings, lists and tuples, in order; a repeated container is visited once."""
    waiting, seen = [value], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Mapping | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += reversed(list(each.values() if isinstance(each, Mapping) else each))
