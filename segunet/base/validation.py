"""Check values against their types with pydantic; an invalid one raises a UserError that names the setting."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from reprlib import Repr
from typing import Annotated, Any, Self, TypeVar

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, validate_call

from segunet.base.errors import UserError

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)  # 1 is not a flag; true and "1" are not numbers

# Finite numbers, bounded so that no file or command line can request absurd amounts of memory.
Finite = Annotated[float, Field(allow_inf_nan=False)]
AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=2**32 - 1)]  # the range of NumPy's seeds
Positive = Annotated[int, Field(ge=1)]
Byte = Annotated[int, Field(ge=0, le=255)]
MOST_CHANNELS = 8192
Channels = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Pixels = Annotated[int, Field(ge=1, le=100_000)]  # length of a side
Text = Annotated[str, Field(strict=False, coerce_numbers_to_str=True)]  # YAML reads some names as numbers


def _check_increasing(bounds: Sequence[float]) -> Sequence[float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [least, most]")
    return bounds


Number = TypeVar("Number")
Bounds = Annotated[Sequence[Number], Field(min_length=2, max_length=2), AfterValidator(_check_increasing)]
Class = TypeVar("Class", bound=type)
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2
_MAX_NAME_PARTS = 4  # of a deeply nested setting's name


def checked(prefix: str, **names: str) -> Callable[[Class], Class]:
    """Make a class check its constructor's arguments against their annotations.

    Args:
        prefix: name of the config node with its arguments, such as ``model.encoder``.
        names: full setting names of the arguments that are set elsewhere.

    Raises (the constructor):
        UserError: an argument is missing, unknown or invalid.
    """

    def decorate(cls: Class) -> Class:
        construct: Callable[..., None] = cls.__init__  # type: ignore[misc]
        validated = validate_call(config=STRICT)(construct)
        own = [*signature(construct).parameters][1:]

        @wraps(construct)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                validated(self, *args[len(own) :], **dict(zip(own, args, strict=False)), **kwargs)
            except ValidationError as error:
                raise UserError(explained(error, prefix, names)) from error

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate


def check(name: str, value: object, kind: Any) -> Any:
    """Check the setting ``name`` against ``kind``, an annotation such as ``Pixels | None``, and return its value.

    Raises:
        UserError: the value is invalid.
    """
    try:
        return TypeAdapter(kind, config=STRICT).validate_python(value)
    except ValidationError as error:
        raise UserError(explained(error, name)) from error


class Settings(BaseModel):
    """A command's plain settings, by their names in its config; its other settings are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    @classmethod
    def of(cls, cfg: DictConfig) -> Self:
        """Read the settings from ``cfg``.

        Raises:
            UserError: one is missing or invalid.
        """
        values = {name: cfg[name] for name in cls.model_fields if name in cfg}
        plain = {
            name: OmegaConf.to_container(each) if OmegaConf.is_config(each) else each for name, each in values.items()
        }
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise UserError(explained(error)) from error


def explained(error: ValidationError, prefix: str = "", names: Mapping[str, str] | None = None) -> str:
    """Describe pydantic's first error: the setting's name after ``prefix``, what it must be, and what it got."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    parts = tuple(part for part in first["loc"][:_MAX_NAME_PARTS] if part != "[key]")  # of a mapping, its key itself
    if elsewhere := (names or {}).get(str(next(iter(parts), ""))):
        prefix, parts = elsewhere, parts[1:]
    name = prefix + "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part)}" for part in parts)
    if not name:
        return f"{message}."
    if first["type"] == "unexpected_keyword_argument":
        return (
            f"{name.lstrip('.')} is no setting here; remove it: '~{name.lstrip('.')}'. It is {shown(first['input'])}."
        )
    what = re.sub("^(Input|Value|List) should ", "must ", message).replace(" after validation", "")
    what = what.replace("a valid boolean", "true or false")
    return f"{name.lstrip('.')}{' ' if what.startswith('must ') else ': '}{what}, got {shown(first['input'])}."


def shown(value: Any) -> str:
    """Return a value from a file as a short text on one line."""
    return _SHORT.repr(value)


def one_line(text: str, most: int = 80) -> str:
    """Return a text from a file without control characters, at most ``most`` characters long."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])
