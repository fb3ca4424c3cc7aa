"""The docstrings of segunet's classes, from their files: to import them would take seconds."""

import ast
from collections.abc import Iterator

from segunet.base.paths import PACKAGE_DIR


def docstrings(target: str) -> Iterator[str]:
    """Yield the docstrings of a class and of its bases within segunet, the furthest base first.

    Args:
        target: dotted name of the class; of anything else there are none.
    """
    module, _, name = target.rpartition(".")
    path = PACKAGE_DIR.joinpath(*module.split(".")[1:]).with_suffix(".py")
    if not module.startswith("segunet.") or not path.is_file():
        return
    body = ast.parse(path.read_text(encoding="utf-8")).body
    imported = {
        alias.asname or alias.name: f"{each.module}.{alias.name}"
        for each in body
        if isinstance(each, ast.ImportFrom)
        for alias in each.names
    }
    for each in body:
        if isinstance(each, ast.ClassDef) and each.name == name:
            for base in (base.id for base in each.bases if isinstance(base, ast.Name)):
                yield from docstrings(imported.get(base, f"{module}.{base}"))
            yield ast.get_docstring(each) or ""
