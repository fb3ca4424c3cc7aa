"""What each of the denoiser's three changes is worth: trainings of equal length without it, and their tables.

Run: python -m tests.benchmarks.denoiser_ablation SEGMENTATION.ckpt DATA_ROOT OUTPUT_FOLDER [setting=value ...]

The settings are for every training, such as trainer.max_epochs=10. What is trained already in OUTPUT_FOLDER is not
trained again, so that a stopped call can go on. The loss is the same for all, whatever their heads predict: the squared
error of the clean image times min(SNR, 5), on the validation images.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

import segunet
from segunet.base.terminal import console
from segunet.data.masks import MaskFormat, read_mask
from segunet.data.voc import list_pairs
from segunet.images.palette import IGNORE_INDEX, voc_palette
from segunet.images.reading import read_image
from segunet.inference.generator import load_denoiser
from segunet.losses.denoising import DenoisingLoss, as_samples
from segunet.models.prompts import present_in
from segunet.training.diffusion import FixedNoise
from tests.benchmarks.denoiser import COUNT, found, generated
from tests.benchmarks.timing import hardware

CLASSES = range(1, 7)  # of the built-in sample
ARMS = {
    "all three": [],
    "no time step": ["model.time_step=false"],
    "no condition": ["model.cross_attention_dim=null"],
    "head: noise": ["loss.prediction=epsilon"],
    "head: clean image": ["loss.prediction=x0"],
}


def trained(run_dir: Path, settings: list[str]) -> Path:
    """Train, unless that is done, and return the best checkpoint."""
    if not (run_dir / "metrics.json").exists():
        train = [sys.executable, "-m", "segunet.train", "experiment=diffusion_sample", f"run_dir={run_dir}"]
        subprocess.run([*train, *settings], check=True)
    return run_dir / "checkpoints" / "best.ckpt"


@torch.inference_mode()
def validation_loss(checkpoint: Path, root: Path) -> float:
    """Return the mean over the validation images, each with its own noise and time step."""
    denoiser = load_denoiser(checkpoint)
    schedule, prompts = denoiser.schedule, denoiser.prompts
    loss = DenoisingLoss(schedule.schedule, schedule.steps, schedule.prediction, min_snr_gamma=5.0)
    pairs, form = list_pairs(root, "val"), MaskFormat(len(CLASSES) + 1, IGNORE_INDEX, voc_palette())
    losses = []
    for index, pair in enumerate(pairs):
        image, fixed = read_image(pair.image), FixedNoise(0, index, len(pairs))
        sample = as_samples(torch.from_numpy(image).permute(2, 0, 1)[None])
        noised = loss.noised(sample, fixed.noise(sample.shape), loss.timesteps(torch.tensor([fixed.share])))
        mask = torch.from_numpy(read_mask(pair.mask, image.shape[:2], form)[None])
        hidden = None if prompts is None else prompts(present_in(mask, CLASSES))
        losses.append(loss(denoiser.net(noised.samples, noised.timesteps, hidden), noised))
    return float(torch.cat(losses).mean())


def main() -> None:
    """Print a row per arm."""
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    judge, root, output, common = segunet.load(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    names = judge.class_names[1:]
    table = Table("", "val loss", "prompted found", "unprompted found", title=f"{COUNT} images per class")
    for number, (arm, settings) in enumerate(ARMS.items()):
        checkpoint = trained(output / str(number), [f"data.root={root}", *common, *settings])
        images = generated(segunet.load(checkpoint), names)
        rates = np.stack([found(judge, each)[1:] for each in images.values()])
        others = rates[~np.eye(len(names), dtype=bool)]
        loss = validation_loss(checkpoint, root)
        table.add_row(arm, f"{loss:.4f}", f"{100 * rates.diagonal().mean():.1f} %", f"{100 * others.mean():.1f} %")
    console.print(hardware(), highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
