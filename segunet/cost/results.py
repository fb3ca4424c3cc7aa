"""Timed cases as rows of a table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from segunet.cost.cases import Case
from segunet.cost.measurement import measure
from segunet.cost.rounds import alternating


@dataclass(frozen=True)
class Row:
    """What a case took.

    Attributes:
        part: the part of the benchmark.
        case: its name.
        unit: of the next three: something per second, or s.
        median, low, high: over the rounds.
        peak_bytes: peak memory in a fresh process; None if it was not measured.
        share: of the floating-point operations per second that matrix products reach; None if unknown.
    """

    part: str
    case: str
    unit: str
    median: float
    low: float
    high: float
    peak_bytes: int | None = None
    share: float | None = None


def rows_of(
    part: str,
    cases: Mapping[str, Case],
    rounds: int,
    ceilings: Mapping[str, float],
    memory: bool,
    advance: Callable[[], object],
) -> list[Row]:
    """Time cases in alternating rounds.

    Args:
        part: the part of the benchmark.
        cases: by name.
        rounds: number of rounds that count.
        ceilings: floating-point operations per second of matrix products, by precision.
        memory: whether to measure the peak memory of the cases that have a workload.
        advance: called after each run.
    """
    times = alternating({name: case.run for name, case in cases.items()}, rounds, advance)
    rows = []
    for name, case in cases.items():
        median, low, high = times[name]
        ceiling = ceilings.get(case.precision)
        share = case.flops / median / ceiling if case.flops and ceiling else None
        peak = measure(case.workload, rounds=1).peak_bytes if memory and case.workload else None
        if case.amount is not None:
            median, low, high = (case.amount / each for each in (median, high, low))
        rows.append(Row(part, name, case.unit, median, low, high, peak, share))
    return rows
