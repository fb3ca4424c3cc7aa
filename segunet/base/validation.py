"""Values checked against their types by pydantic; what does not fit is a UserError that names the setting."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from reprlib import Repr
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, ValidationError, validate_call

from segunet.base.errors import UserError

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)  # 1 is no flag, true and "1" are no numbers

# Finite numbers; bounded, so that no file or command line asks for more memory than a network can use.
Finite = Annotated[float, Field(allow_inf_nan=False)]

AtLeast0 = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Share = Annotated[float, Field(ge=0, le=1)]

Channels = Annotated[int, Field(ge=1, le=8192)]

Pixels = Annotated[int, Field(ge=1, le=100_000)]  # of a side

Class = TypeVar("Class", bound=type)

_SHORT = Repr()

_SHORT.maxstring = _SHORT.maxother = 80

_SHORT.maxlevel = 2

_MOST_PARTS = 4  # of the name of what is nested deeply


def checked(prefix: str) -> Callable[[Class], Class]:
    """Make a class check its constructor's arguments against their annotations.

    Args:
        prefix: name of the settings that are its arguments, such as ``model.encoder``.

    Raises (the constructor):
        UserError: an argument is missing, unknown, or does not fit.
    """

    def decorate(cls: Class) -> Class:
        construct: Callable[..., None] = cls.__init__  # type: ignore[misc]
        validated = validate_call(config=STRICT)(construct)
        names = [*signature(construct).parameters][1:]

        @wraps(construct)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                validated(self, *args[len(names) :], **dict(zip(names, args, strict=False)), **kwargs)
            except ValidationError as error:
                raise UserError(explained(error, f"{prefix}.")) from error

        cls.__init__ = init  # type: ignore[misc]
        return cls

    return decorate


def explained(error: ValidationError, prefix: str = "") -> str:
    """Return what pydantic found first: the setting's name after ``prefix``, what it must be, and what was got."""
    first = error.errors(include_url=False)[0]
    parts = (f"[{part}]" if isinstance(part, int) else f".{one_line(part)}" for part in first["loc"][:_MOST_PARTS])
    name = prefix + "".join(parts).lstrip(".")
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ") + "."
    what = first["msg"].replace("Input should ", " must ", 1) if "Input should" in first["msg"] else f": {first['msg']}"
    return f"{name}{what}, got {shown(first['input'])}."


def shown(value: Any) -> str:
    """Return a value from a file as a short text on one line."""
    return _SHORT.repr(value)


def one_line(text: str, most: int = 80) -> str:
    """Return a text from a file without what moves a terminal's cursor, and no longer than ``most``."""
    return "".join(each if each.isprintable() else "?" for each in text[:most])
