"""The one exception that is shown to the user as a paragraph instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: the message says what was wanted, what came, which file, and what to do."""

    @property
    def paragraph(self) -> str:
        """The message alone, also when a loader worker wrapped it in its own traceback."""
        return str(self).rsplit("UserError: ", 1)[-1].strip()
