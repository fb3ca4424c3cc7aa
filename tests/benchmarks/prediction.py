"""What ``segunet.predict`` costs: peak memory of a 12,000 x 9,000 image in tiles, and where the time of many goes.

Run: python -m tests.benchmarks.prediction CHECKPOINT FOLDER_OF_IMAGES
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from segunet.images.inputs import find_inputs
from tests.benchmarks.timing import hardware

SIZE = (12_000, 9_000)


def peak_of(*overrides: str) -> float:
    """Run the command and return the most memory that it held, in GiB."""
    process = subprocess.Popen([sys.executable, "-m", "segunet.predict", *overrides])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1024 if sys.platform == "linux" else 1) / 2**30


def main() -> None:
    """Print the command's own line on time, and its peak memory."""
    checkpoint, folder = sys.argv[1:]
    print(hardware())
    with tempfile.TemporaryDirectory() as scratch:
        options = [f"checkpoint={checkpoint}", f"output={scratch}/out"]
        print(f"{folder}: peak {peak_of(*options, f'input={folder}'):.2f} GiB")
        large = Path(scratch) / "large.jpg"
        Image.open(find_inputs(folder, [])[0]).convert("RGB").resize(SIZE).save(large)
        print(f"{SIZE[0]:,} x {SIZE[1]:,}: peak {peak_of(*options, f'input={large}', 'tile=512'):.2f} GiB")


if __name__ == "__main__":
    main()
