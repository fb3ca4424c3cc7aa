"""The mean IoU over some of the classes: ``python -m tests.benchmarks.class_mean RUN_DIR CLASS CLASS ...``.

For a part of a data set in which the other classes hardly occur; reads what ``segunet.evaluate`` or a training wrote.
"""

import json
import statistics
import sys
from pathlib import Path


def class_mean(run_dir: Path, names: list[str]) -> float:
    """Return the mean of the classes' IoU, 0..1."""
    per_class = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["per_class"]
    return statistics.mean(float(per_class[name]["iou"]) for name in names)


if __name__ == "__main__":
    print(f"mean IoU of {', '.join(sys.argv[2:])}: {class_mean(Path(sys.argv[1]), sys.argv[2:]):.4f}")
