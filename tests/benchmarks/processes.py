"""How the cost grows with processes: images/s of a training in one process with two threads, in two with one each.

Both take the same batch of images per step together, from the built-in sample. Also prints what a step sends between
processes: a ring all-reduce moves 2 (n - 1) / n times the gradients, in float32, through each of n processes.

Run: python -m tests.benchmarks.processes [ROUNDS]
"""

import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from segunet.cli.overrides import composed
from segunet.training.build import net_from_config
from tests.benchmarks.timing import hardware

STEPS, BATCH, CORES = 12, 8, 2
_SPEED = re.compile(r"([\d.]+) images/s")


def images_per_second(processes: int) -> float:
    """Train for some steps and return the speed that the training says."""
    with TemporaryDirectory() as folder:
        options = [
            *("experiment=sample", f"data.batch_size={BATCH // processes}", "data.num_workers=0"),
            *(f"trainer.limit_train_batches={STEPS}", "trainer.max_epochs=1", "trainer.limit_val_batches=0"),
            *("trainer.precision=32-true", f"run_dir={Path(folder) / 'run'}", "callbacks.freeze_encoder_epochs=0"),
            *([] if processes == 1 else ["trainer=ddp", f"trainer.devices={processes}"]),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": str(CORES // processes)}
        command = [sys.executable, "-m", "segunet.train", *options]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = _SPEED.search(result.stdout)
    assert found, result.stdout
    return float(found[1])


def gradient_bytes() -> int:
    """Return the bytes of a step's gradients of the default network."""
    cfg = composed("train", ["experiment=voc2012", "data.root=.", "model.encoder.weights=null"])
    net = net_from_config(cfg.model)
    return 4 * sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def main(rounds: int = 3) -> None:
    """Print the speeds, and what more processes send."""
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for processes, measured in speeds.items():
            measured.append(images_per_second(processes))
    one, two = (statistics.median(measured) for measured in speeds.values())
    print(hardware())
    print(f"{one:.2f} images/s in one process, {two:.2f} in two ({two / one:.2f} times), batches of {BATCH} together")
    size = gradient_bytes()
    for count in (2, 8, 64):
        print(f"{count} processes: each sends and receives {2 * (count - 1) / count * size / 1e6:.0f} MB per step")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
