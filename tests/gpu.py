"""What only a GPU can show, in one command: ``python -m tests.gpu [VOC_ROOT [ENCODER_WEIGHTS]]``.

Mixed precision and torch.compile against float32, speed and memory beside the peers', a resumed run against the
uninterrupted one and, on a folder in VOC's layout, three minutes of training. At most 8 minutes; without a CUDA GPU it
says so and ends.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch._dynamo.utils import counters

from segunet.cli.overrides import composed
from segunet.cost.machine import finished
from segunet.inference.precision import mixed_precision
from segunet.training import build
from tests.benchmarks.peers import STEPS, segunet_step
from tests.benchmarks.timing import medians

BATCH, SIZE = 8, 256
VALIDATION_SIZES = ((333, 500), (500, 375), (500, 333), (281, 500), (500, 500))


def network(device: torch.device) -> nn.Module:
    """Return the default network, with random weights."""
    torch.manual_seed(0)
    cfg = composed("train", ["data=voc2012", "model.encoder.weights=null"])
    return build.net_from_config(cfg.model).to(device).to(memory_format=torch.channels_last)


def images(device: torch.device, count: int, size: tuple[int, int]) -> Tensor:
    """Return random images uint8 (count, 3, *size)."""
    return torch.randint(256, (count, 3, *size), dtype=torch.uint8, device=device)


def check_precision(device: torch.device) -> str:
    """Compare the loss and its gradient in mixed precision with float32's."""
    loss = instantiate(composed("train", ["data=voc2012"]).loss, _convert_="all").to(device)
    batch = images(device, BATCH, (SIZE, SIZE))
    masks = torch.randint(21, (BATCH, SIZE, SIZE), device=device)
    results = []
    for dtype in (None, torch.bfloat16):
        net = network(device).train()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = net(batch)
        total = loss(logits, masks).total
        total.backward()
        gradient = torch.cat([each.grad.flatten() for each in net.parameters() if each.grad is not None])
        results.append((total.item(), gradient))
    (exact, wanted), (mixed, got) = results
    cosine = float(torch.cosine_similarity(wanted, got, dim=0))
    assert abs(mixed - exact) < 0.02 * exact, (exact, mixed)
    assert cosine > 0.9, cosine
    return f"loss {mixed:.4f} in bfloat16, {exact:.4f} in float32; cosine of the gradients {cosine:.4f}"


def check_compile(device: torch.device, backend: str = "inductor") -> str:
    """Count graph breaks and compilations: crops of one size in training, images of many in validation."""
    torch._dynamo.reset()
    counters.clear()
    eager, net = network(device).eval(), network(device)
    net.compile(backend=backend)
    net.train()(images(device, 2, (SIZE, SIZE))).mean().backward()
    net.load_state_dict(eager.state_dict())
    net.eval()
    largest = 0.0
    with torch.inference_mode():
        for size in VALIDATION_SIZES:
            batch = images(device, 2, size)
            wanted = eager(batch)
            largest = max(largest, float((net(batch) - wanted).abs().max() / wanted.abs().max()))
    graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
    assert breaks == 0, dict(counters["graph_break"])
    assert graphs <= 3, graphs  # training, the first size, any size
    assert largest < 0.01, largest
    return f"{graphs} compilations for training and {len(VALIDATION_SIZES)} sizes, no graph break; within {largest:.1e}"


def check_waits(device: torch.device) -> str:
    """Take training steps of segunet's network and loss while torch forbids to wait for the GPU."""
    with device:
        step = STEPS["segunet"](BATCH, SIZE)
    step()
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "network, loss and optimizer never wait for the GPU"


def check_speed(device: torch.device) -> str:
    """Time a training step of segunet and of its peers, in alternating rounds."""
    lines = [f"training step, {SIZE} x {SIZE}, batch {BATCH}:"]
    with device:
        steps: dict[str, Callable[[], object]] = {
            name: partial(finished, make(BATCH, SIZE), device) for name, make in STEPS.items()
        }
    seconds = medians(steps, rounds=7)
    steps.clear()
    for name, each in seconds.items():
        lines.append(f"  {name:32s}{BATCH / each:8.1f} images/s  {each / seconds['segunet, bfloat16']:6.2f}")
    return "\n".join(lines)


def check_memory(device: torch.device) -> str:
    """Measure the peak memory of a training step in mixed precision, 16 images of 512 x 512, also with less kept."""
    peaks = []
    for checkpointing in (False, True):
        torch.cuda.reset_peak_memory_stats(device)
        with device:
            segunet_step(16, 512, bf16=True, checkpointing=checkpointing)()
        peaks.append(torch.cuda.max_memory_allocated(device) / 1e9)
    usual, less = peaks
    return (
        f"peak memory of a training step of 16 x 512 x 512: {usual:.2f} GB, with gradient checkpointing {less:.2f} GB"
    )


def check_resume(_: torch.device) -> str:
    """Stop a training after its first epoch, resume it, and compare it with the uninterrupted one."""
    options = ["trainer.max_epochs=2", "trainer.deterministic=true", "callbacks.ema_decay=0.9"]
    with tempfile.TemporaryDirectory() as scratch:
        whole, cut = (Path(scratch) / name for name in ("whole", "cut"))
        trained(*options, "trainer.log_every_n_steps=50", f"run_dir={whole}")
        trained(*options, "trainer.log_every_n_steps=50", f"run_dir={cut}", stop_after="epoch 1/2 ")
        trained(f"resume={cut}")
        first, second = (_weights(run_dir) for run_dir in (whole, cut))
    largest = max(float((first[name].float() - second[name].float()).abs().max()) for name in first)
    assert largest < 1e-3, largest
    return f"a resumed run's weights differ from the uninterrupted one's by at most {largest:.1e}"


def trained(*overrides: str, stop_after: str | None = None) -> str:
    """Run segunet.train and return what it printed; interrupt it after the line that holds ``stop_after``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "segunet.train", *overrides], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if stop_after and stop_after in line:
            process.send_signal(signal.SIGINT)
    status, output = process.wait(), "".join(lines)
    assert status == (128 + signal.SIGINT if stop_after else 0), output[-2000:]
    return output


def _weights(run_dir: Path) -> dict[str, Tensor]:
    content = torch.load(run_dir / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    return content["state_dict"]  # type: ignore[no-any-return]


def train_on(root: str, weights: str) -> str:
    """Train on a folder in VOC's layout for three minutes; return the lines of its epochs."""
    limits = ["data.train_split=train", "trainer.max_epochs=20", "trainer.max_time=00:00:03:00"]
    with tempfile.TemporaryDirectory() as scratch:
        files = [f"data.root={root}", f"model.encoder.weights={weights}", f"run_dir={scratch}/run"]
        output = trained("experiment=voc2012", *limits, *files)
    epochs = re.findall(r"epoch \d+/.*", output)
    assert epochs, output[-2000:]
    return "\n".join(epochs)


def main() -> None:
    """Run every check and print what it found."""
    if not torch.cuda.is_available():
        print("There is no CUDA GPU here: nothing was checked.")
        return
    device = torch.device("cuda")
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {mixed_precision('cuda')}", flush=True)
    for check in (check_precision, check_compile, check_waits, check_speed, check_memory, check_resume):
        print(f"{check.__name__}: {check(device)}", flush=True)
    if len(sys.argv) > 1:
        print(train_on(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "null"))


if __name__ == "__main__":
    main()
