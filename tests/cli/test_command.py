"""Errors of commands: what led to them."""

from segunet.cli.command import _causes


def test_errors_that_lead_to_each_other_are_each_seen_once() -> None:
    first, second, third = OSError("disk full"), ValueError("no scalar"), SystemExit(143)
    first.__context__, second.__context__ = second, first  # as an error that a thread keeps and raises again
    assert list(_causes(first)) == [first, second]
    second.__cause__, third.__context__ = third, first
    assert list(_causes(first)) == [first, second, third]
