"""A denoiser's checkpoint ready to generate images, used by ``python -m segunet.generate`` and in notebooks."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segunet.base.errors import UserError
from segunet.base.failures import enough_memory
from segunet.base.terminal import setting
from segunet.base.validation import Count, Finite, Pixels, Positive, check
from segunet.formats.read import READERS
from segunet.inference.autoencoder import Decode, load_autoencoder
from segunet.inference.checkpoint import card_of, load_checkpoint, read_checkpoint, weights_of, with_weights
from segunet.inference.precision import fabric_from_settings
from segunet.inference.sampling import denoised, guided, noise_of
from segunet.losses.denoising import as_images
from segunet.losses.noise_schedule import NoiseSchedule
from segunet.models.build import build_network
from segunet.models.diffusion_unet import DiffusionUNet, check_side
from segunet.models.prompts import PromptEncoder, hidden_states, parsed_prompt, vocabulary_of

Images = NDArray[np.uint8]
Samples = NDArray[Any]  # images uint8 (N, H, W, 3), or latents float32 (N, C, H, W)
Advance = Callable[[int], object]

GUIDANCE = 3.0  # of a conditional network, unless another one is given
FILM_FRAMES = 8
_ADVICE = "Give a checkpoint of a denoiser that segunet.train wrote, such as a run's checkpoints/best.ckpt."


@dataclass(frozen=True)
class DenoiserCheckpoint:
    """A denoiser and the data saved with it.

    Attributes:
        net: the trained denoiser, in evaluation mode, on the CPU.
        prompts: encoder of its prompts; None for an unconditional denoiser.
        schedule: what it was trained for.
        size: side of its samples in pixels.
        latent_scale: what latents were multiplied with; None if its samples are images.
    """

    net: DiffusionUNet
    prompts: PromptEncoder | None
    schedule: NoiseSchedule
    size: int
    latent_scale: float | None = None


@dataclass(frozen=True)
class Request:
    """What to generate, checked against the network.

    Attributes:
        prompt: names with commas between them, or "" for none; None for an unconditional network.
        count: number of images.
        steps: number of denoising steps.
        guidance: strength of the prompt; 0 for none, 1 for the prompt alone.
        seed: of the noise: with the same seed, image i is the same on the same machine.
        scheduler: one of the schedule's samplers.
        batch_size: images that are generated at once, which bounds the memory.
        size: side of the images in pixels.
    """

    prompt: str | None
    count: int
    steps: int
    guidance: float
    seed: int
    scheduler: str
    batch_size: int
    size: int

    @property
    def way(self) -> str:
        """How it is generated, in a few words."""
        guidance = [f"guidance {self.guidance:g}"] if self.prompt else []
        return ", ".join([*guidance, self.scheduler, f"{self.steps} steps", f"seed {self.seed}"])


@dataclass(frozen=True)
class Film:
    """How an image comes out of noise: uint8 (F, H, W, 3), and the number of steps done at each frame."""

    frames: Images
    steps: list[int]


def load_denoiser(path: Path) -> DenoiserCheckpoint:
    """Rebuild the denoiser of a segunet checkpoint.

    Raises:
        UserError: as :func:`segunet.inference.checkpoint.read_checkpoint`, or no denoiser's; an exported file.
    """
    if path.suffix in READERS:
        load_checkpoint(path)  # says so if it is a denoiser's
        raise UserError(_of_segmentation(path))
    return denoiser_of(read_checkpoint(path, _ADVICE), path)


def denoiser_of(content: Mapping[str, Any], path: Path) -> DenoiserCheckpoint:
    """Rebuild the denoiser of a .ckpt file's ``content``; raises as :func:`load_denoiser`."""
    card = card_of(content, path, _ADVICE)
    if (about := card.denoiser) is None:
        raise UserError(_of_segmentation(path))
    names = list(vocabulary_of(card.class_names, card.data.ignore_index).values())
    parts = {part: weights_of(content["state_dict"], path, part) for part in ("net.", "prompts.")}
    weights = {f"{part}{name}": value for part, values in parts.items() for name, value in values.items()}
    latents = about.latent_scale is not None
    built = with_weights(lambda: _parts(card.model, names, latents), weights, card.version, path)
    net, prompts = built.get_submodule("net"), getattr(built, "prompts", None)
    assert isinstance(net, DiffusionUNet)
    if card.channels_last:
        net.to(memory_format=torch.channels_last)
    schedule = NoiseSchedule(about.schedule, about.steps, about.prediction)
    checkpoint = DenoiserCheckpoint(net.eval(), prompts, schedule, about.size, about.latent_scale)
    _check_runs(checkpoint, path)
    return checkpoint


def _of_segmentation(path: Path) -> str:
    return (
        f"{path} holds a segmentation network, which generates no images. Use it with: "
        f"python -m segunet.predict {setting('checkpoint', path)} input=PATH"
    )


def _parts(model: Mapping[str, Any], names: list[str], latents: bool) -> nn.Module:
    """Build the network of a card and its prompts.

    Raises:
        UserError: it is no denoiser of images, or of ``latents``.
    """
    net = build_network(model)
    if not isinstance(net, DiffusionUNet):
        raise UserError(f"its card describes a denoiser, but its network is a {type(net).__name__}.")
    if net.in_channels != net.out_channels or (net.in_channels != 3 and not latents):
        wanted = "latents have as many in as out" if latents else "images have 3"
        raise UserError(f"its network has {net.in_channels} and {net.out_channels} channels, {wanted}.")
    parts: dict[str, nn.Module] = {"net": net}
    if net.cross_attention_dim is not None:
        parts["prompts"] = PromptEncoder(names, net.cross_attention_dim)
    return nn.ModuleDict(parts)


def _check_runs(checkpoint: DenoiserCheckpoint, path: Path) -> None:
    """Raise a UserError unless the network runs."""
    side, prompts = checkpoint.net.encoder.stride, checkpoint.prompts
    try:
        with torch.inference_mode():
            hidden = None if prompts is None else prompts(torch.zeros(1, len(prompts.names), dtype=torch.bool))
            checkpoint.net(torch.zeros(1, checkpoint.net.in_channels, side, side), 0, hidden)
    except Exception as error:  # of any layer
        raise UserError(f"{path}: its network cannot be run: {' '.join(str(error).split())[:300]}.") from error


class Generator:
    """A trained denoiser that generates images, or latents.

    Created by :func:`segunet.load`. Attributes: ``class_names``, the names that prompts are made of, empty for an
    unconditional network; ``size``, the side in pixels of the images that it was trained on; ``latent_scale``, what
    its latents were multiplied with, None for images; ``film``, of the last images, None for latents that
    nothing decodes;
    ``seconds_per_step``, of the last images.
    """

    def __init__(
        self,
        checkpoint: DenoiserCheckpoint,
        accelerator: str = "auto",
        precision: str = "auto",
        vae: Path | None = None,
    ) -> None:
        """Load a checkpoint; ``vae``, the folder of an autoencoder, decodes latents to images.

        Raises:
            UserError: an invalid setting; as :func:`segunet.inference.autoencoder.load_autoencoder`; an autoencoder
                for a denoiser of images.
        """
        self.schedule, self.size = checkpoint.schedule, checkpoint.size
        self.latent_scale, self.channels = checkpoint.latent_scale, checkpoint.net.in_channels
        self.stride = checkpoint.net.encoder.stride
        self.class_names = [] if checkpoint.prompts is None else checkpoint.prompts.names
        self.fabric = fabric_from_settings(accelerator, precision)
        self.net = self.fabric.setup_module(checkpoint.net).eval()
        self.prompts: PromptEncoder | None = None
        if checkpoint.prompts is not None:  # wrapped by Fabric, it still has its attributes
            self.prompts = cast(PromptEncoder, self.fabric.setup_module(checkpoint.prompts).eval())
        self.decode: Decode | None = None if self.latent_scale else as_images
        if vae is not None:
            if self.latent_scale is None:
                raise UserError("vae: this denoiser makes images, which need no autoencoder. Leave it out.")
            self.decode = load_autoencoder(vae, self.channels, self.fabric.device)
        self.film: Film | None = None
        self.seconds_per_step = 0.0

    def request(
        self,
        prompt: str | None = None,
        count: int = 1,
        steps: int = 25,
        guidance: float | None = None,
        seed: int = 0,
        scheduler: str | None = None,
        batch_size: int = 16,
        size: int | None = None,
    ) -> Request:
        """Check what is asked for, and fill in what is left out.

        Raises:
            UserError: an invalid value; a prompt or guidance for an unconditional network, guidance without a prompt.
        """
        for name, number in (("count", count), ("steps", steps), ("batch_size", batch_size)):
            check(name, number, Positive)
        check("seed", seed, Count)
        check("guidance", guidance, Finite | None)
        check("prompt", prompt, str | None)
        side = check("size", self.size if size is None else size, Pixels)
        try:
            check_side(side, self.stride)
        except UserError as error:
            raise UserError(f"size={side}: {error}") from error
        if steps > self.schedule.steps:
            raise UserError(
                f"steps={steps}: the network was trained with {self.schedule.steps}; give as many or fewer."
            )
        if scheduler is None:
            scheduler = self.schedule.samplers[0]
        self.schedule.timed_sampler(scheduler, steps)  # or say which there are
        if self.prompts is None:
            given = [name for name, value in (("prompt", prompt or None), ("guidance", guidance)) if value is not None]
            if given:
                raise UserError(
                    f"{' and '.join(given)}: this network is unconditional, so it takes neither prompt nor guidance. "
                    "Leave them out, or train one with model.cross_attention_dim=64."
                )
            return Request(None, count, steps, 1.0, seed, scheduler, batch_size, side)
        if not parsed_prompt(prompt or "", self.class_names).any():
            if guidance is not None:
                raise UserError(
                    "guidance is the strength of a prompt, and there is none. Give prompt=, or leave it out."
                )
            return Request("", count, steps, 0.0, seed, scheduler, batch_size, side)
        strength = GUIDANCE if guidance is None else float(guidance)
        return Request(prompt, count, steps, strength, seed, scheduler, batch_size, side)

    def generate(
        self,
        prompt: str | None = None,
        *,
        count: int = 1,
        steps: int = 25,
        guidance: float | None = None,
        seed: int = 0,
        scheduler: str | None = None,
        batch_size: int = 16,
        size: int | None = None,
    ) -> Samples:
        """Return images uint8 (N, H, W, 3) RGB; or latents float32 (N, C, H, W), as they were stored.

        Args:
            prompt: some of ``class_names`` with commas between them, such as "disc, star"; None or "" for no wish.
            count: N.
            steps: number of denoising steps.
            guidance: strength of the prompt (Ho and Salimans 2022): 0 ignores it, 1 is the network's own, None for 3.
            seed: image i depends on the seed and i alone.
            scheduler: ddim, dpm, euler or ddpm; euler of a flow; None for the first of these that fits.
            batch_size: images that are generated at once.
            size: side of the images; None for that of the training.

        Raises:
            UserError: an invalid value; a prompt or guidance for an unconditional network; out of memory.
        """
        wanted = self.request(prompt, count, steps, guidance, seed, scheduler, batch_size, size)
        return np.concatenate(list(self.batches(wanted)))

    def batches(self, wanted: Request, advance: Advance = lambda _: None) -> Iterator[Samples]:
        """Yield what :meth:`generate` returns, a batch at a time.

        Args:
            wanted: what to generate.
            advance: called after each step with the number of images that took it.
        """
        seconds, steps, self.film = 0.0, 0, None
        what = f"for {wanted.batch_size} images of {wanted.size} x {wanted.size} pixels at once"
        for first in range(0, wanted.count, wanted.batch_size):
            indices = range(first, min(first + wanted.batch_size, wanted.count))
            began = time.monotonic()
            with enough_memory(what, "Lower batch_size."):
                images = self._batch(wanted, indices, advance)
            seconds, steps = seconds + time.monotonic() - began, steps + wanted.steps
            self.seconds_per_step = seconds / steps
            yield images

    @torch.inference_mode()
    def _batch(self, wanted: Request, indices: range, advance: Advance) -> Samples:
        latents, device = self.latent_scale is not None, self.fabric.device
        scheduler = self.schedule.timed_sampler(wanted.scheduler, wanted.steps, device, latents)
        drawn = [noise_of(wanted.seed, index, (self.channels, wanted.size, wanted.size)) for index in indices]
        noise = torch.stack([each for each, _ in drawn]).to(self.fabric.device)
        hidden, empty = hidden_states(self.prompts, wanted.prompt or "", len(indices))
        predict = guided(self.net, hidden, empty, wanted.guidance)
        frames: dict[int, Images] = {}
        shown = set(np.linspace(0, wanted.steps, min(FILM_FRAMES, wanted.steps + 1)).round().astype(int).tolist())

        def watch(number: int, samples: Tensor) -> None:
            advance(len(indices) if number else 0)
            if not indices[0] and number in shown and self.decode:
                frames[number] = self._finished(samples[:1])

        samples = denoised(predict, noise, scheduler, [generator for _, generator in drawn], watch)
        advance(len(indices))
        finished = self._finished(samples)
        if not indices[0] and self.decode:
            frames[wanted.steps] = finished[:1]
            self.film = Film(np.concatenate(list(frames.values())), list(frames))
        return finished

    def _finished(self, samples: Tensor) -> Samples:
        """Return the images of samples (N, C, H, W); latents as they were stored, if nothing decodes them."""
        stored = samples / (self.latent_scale or 1)
        finished: Samples = (stored.float().cpu() if self.decode is None else self.decode(stored)).numpy()
        return finished
