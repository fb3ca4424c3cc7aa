"""What a report says of how its run was made."""

import pytest

from segunet.report.facts import duration


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        (0.04, "0.0 s"),
        (12.34, "12.3 s"),
        (59.7, "1 min 0 s"),
        (211, "3 min 31 s"),
        (15_130, "4 h 12 min"),
        (7199, "1 h 59 min"),
    ],
)
def test_a_time_span_has_two_units(seconds: float, wanted: str) -> None:
    assert duration(seconds) == wanted
