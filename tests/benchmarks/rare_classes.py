"""What class-balanced crops are worth: the sample with two classes made rare, trained with and without them.

Run: python -m tests.benchmarks.rare_classes OUTPUT_FOLDER [setting=value ...]

The training list keeps the images of the sample without a star or a cross, and SHARE of those with one. The settings
are for every training, such as trainer.max_epochs=2. What is trained already in OUTPUT_FOLDER is not trained again.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from segunet.base.terminal import console
from segunet.data.built_in import write
from segunet.data.sample import the_sample
from segunet.data.voc import list_pairs, list_path
from tests.benchmarks.timing import hardware

RARE = {4: "star", 6: "cross"}  # classes of the sample
SHARE = 0.04
SEEDS = (0, 1, 2)
BALANCES = (0.0, 0.5)


def write_list(root: Path) -> int:
    """Write the list train_rare, and return how many of its images have a rare class."""
    rng = np.random.default_rng(0)
    names, rare = [], 0
    for pair in list_pairs(root, "train"):
        with Image.open(pair.mask) as mask:
            has_rare = bool(np.isin(np.asarray(mask), list(RARE)).any())
        if not has_rare or rng.uniform() < SHARE:
            names.append(pair.name)
            rare += has_rare
    list_path(root, "train_rare").write_text("\n".join(names) + "\n")
    return rare


def trained(run_dir: Path, settings: list[str]) -> dict[str, float]:
    """Train, unless that is done, and return the IoU of each class and the mIoU."""
    if not (run_dir / "metrics.json").exists():
        command = [sys.executable, "-m", "segunet.train", "experiment=sample", f"run_dir={run_dir}", *settings]
        subprocess.run(command, check=True)
    content = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    return {name: row["iou"] for name, row in content["per_class"].items()} | {"mIoU": content["miou"]}


def main(output: Path, settings: list[str]) -> None:
    """Train with each balance and seed, and print the means."""
    root = output / "sample"
    write(the_sample(), root)
    rare = write_list(root)
    table = Table(title=f"{rare} training images with {' or '.join(RARE.values())}; {len(SEEDS)} seeds; {hardware()}")
    for heading in ("class_balance", *RARE.values(), "mIoU"):
        table.add_column(heading)
    for balance in BALANCES:
        own = [f"data.root={root}", "data.train_split=train_rare", f"data.transform.class_balance={balance}"]
        runs = [trained(output / f"{balance}-{seed}", [*own, f"seed={seed}", *settings]) for seed in SEEDS]
        cells = []
        for name in (*RARE.values(), "mIoU"):
            values = [run[name] for run in runs]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        table.add_row(str(balance), *cells)
    console.print(table)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
