"""Convert a checkpoint: ``python -m segunet.convert source=PATH from=article|smp|smp_timm output=PATH [key=value]``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("convert")

import logging
from pathlib import Path
from typing import get_args

import torch
from omegaconf import DictConfig, OmegaConf

from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.files import draft_folder_beside
from segunet.base.safetensors_file import read_weights
from segunet.base.terminal import setting
from segunet.base.torch_file import save_torch
from segunet.cli.command import command
from segunet.cli.run_dir import as_path
from segunet.inference.checkpoint import Checkpoint, load_checkpoint
from segunet.models.encoder import Depth
from segunet.models.state_dicts import (
    ORIGINS,
    Origin,
    StateDict,
    decoder_widths,
    resnet_depth,
    state_dict_in,
    to_segunet,
    with_background,
    wrappers_in,
)
from segunet.models.timm_encoder import warn_of_normalization
from segunet.models.unet import UNet
from segunet.training import build

logger = logging.getLogger("segunet.convert")  # __name__ is "__main__" when run as a program
_SAVE_AGAIN = "Save the network's state dict: torch.save(model.state_dict(), path)."


def convert(cfg: DictConfig) -> Checkpoint:
    """Convert the state dict ``cfg.source`` to the segunet checkpoint ``cfg.output``, and load it.

    The logits equal the original network's for images whose sides are multiples of 32; other images are padded to
    that with the mean colour. Images enter at their own size (or at ``cfg.inference_size``), even if the original's
    scripts use a letterbox of 512 x 512.

    Raises:
        UserError: anything the user can fix; nothing is written then.
    """
    source, output = as_path(cfg.source), as_path(cfg.output)
    check_output(output)
    origin = ORIGINS[cfg["from"]]
    state = read_state_dict(source, cfg["from"])
    if cfg["from"] == "smp_timm" and cfg.model.encoder.name is None:
        raise UserError("Which encoder? Give model.encoder.name=NAME, the NAME of tu-NAME, as timm calls it.")
    datamodule = build.datamodule_from_config(cfg)
    state = fit_classes(state, origin, datamodule.class_names, source)
    fit_model(cfg.model, state, origin)
    card = build.card(cfg, datamodule)
    card["data"]["flip"] = None  # unknown
    net = build.net_from_config(OmegaConf.create(card["model"]))
    if not isinstance(net, UNet):
        raise UserError(f"The network is determined by from={cfg['from']}: leave model=... out.")
    if cfg["from"] == "smp_timm":
        warn_of_normalization(cfg.model.encoder.name, cfg.model.mean, cfg.model.std)
    try:
        weights = to_segunet(state, origin, net.state_dict(), net.encoder.channels[-2::-1])
    except UserError as error:
        raise UserError(
            f"{source} as from={cfg['from']} with {encoder_of(cfg.model)}: {error} The network must be the original, "
            "with this encoder, three colour channels and a decoder of five steps without attention."
            f"{_hint(state, cfg['from'])}"
        ) from error
    net.load_state_dict(net.state_dict() | weights)
    content = {"segunet": card, "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()}}
    with draft_folder_beside(output) as folder:
        draft = folder / output.name
        save_torch(content | {"epoch": 0}, draft)
        try:
            checkpoint = load_checkpoint(draft)
        except UserError as error:
            raise UserError(str(error).replace(str(draft), str(source))) from error
        draft.replace(output)
    return checkpoint


def encoder_of(model: DictConfig) -> str:
    """Return what the encoder of a ``model`` config is called."""
    return str(model.encoder.get("name") or f"ResNet-{model.encoder.depth}")


def _hint(state: StateDict, origin: str) -> str:
    of_timm = any(name.startswith("encoder.model.") for name in state)
    if of_timm and origin == "smp":
        return " An encoder of timm (tu-NAME there) is from=smp_timm model.encoder.name=NAME."
    return " It looks like one of torchvision's: from=smp." if origin == "smp_timm" and not of_timm else ""


def fit_model(model: DictConfig, state: StateDict, origin: Origin) -> None:
    """Set depth and widths in the ``model`` config to those of ``state``, as far as they can be determined."""
    if "depth" in model.encoder and (depth := resnet_depth(state)) in get_args(Depth):
        model.encoder.depth = depth
    if len(widths := decoder_widths(state, origin)) == 5:
        model.decoder.widths, model.decoder.full_resolution_width = widths[:4], widths[4]


def check_output(output: Path) -> None:
    """Raise a UserError unless ``output`` is the name of a new checkpoint."""
    if output.suffix != ".ckpt":
        raise UserError(f"output={output}: the name must end in .ckpt, such as {output.with_suffix('.ckpt')}.")
    if output.exists():
        raise UserError(f"output={output} exists. Give another name, or remove it first.")


def read_state_dict(path: Path, name: str) -> StateDict:
    """Read a state dict with the names of ``ORIGINS[name]``, without a wrapper's prefix.

    Raises:
        UserError: no file, not a state dict, another project's names, or several networks.
    """
    if not path.is_file():
        raise UserError(
            f"source: there is no file {path.absolute()}. Give the path of a state dict (.pth, .pt, .ckpt or "
            ".safetensors)."
        )
    content = read_weights(path, _SAVE_AGAIN)
    if isinstance(content, dict) and "segunet" in content:
        raise UserError(f"{path} is a segunet checkpoint already: give it as checkpoint={path} to the other commands.")
    try:
        state = state_dict_in(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    wrappers = wrappers_in(state, ORIGINS[name])
    if len(wrappers) != 1:
        raise UserError(f"{path}: {_mismatch(state, wrappers, name)}")
    return network_of(state, wrappers.pop(), ORIGINS[name])


def _mismatch(state: StateDict, wrappers: set[str], name: str) -> str:
    """Return why the names of ``state`` are not those of one network of ``ORIGINS[name]``."""
    if wrappers:
        several = ", ".join(repr(wrapper) for wrapper in sorted(wrappers))
        return f"it holds several networks, with the prefixes {several}. {_SAVE_AGAIN}"
    others = [other for other, origin in ORIGINS.items() if wrappers_in(state, origin)]
    advice = f"They look like those of from={others[0]}." if others else f"Known origins are {', '.join(ORIGINS)}."
    return f"its names ({abbreviated(list(state), most=3)}) are not those of from={name}. {advice}"


def network_of(state: StateDict, wrapper: str, origin: Origin) -> StateDict:
    """Return the network's tensors, without the ``wrapper`` prefix; log stripped and ignored names."""
    ignored = [name for name in state if not name.startswith(wrapper) or name.startswith(wrapper + origin.ignored)]
    if wrapper:
        logger.info("stripped prefix: %r", wrapper)
    if ignored:
        logger.info("ignored keys, not needed for the logits: %s", abbreviated(ignored))
    return {name.removeprefix(wrapper): value for name, value in state.items() if name not in ignored}


def fit_classes(state: StateDict, origin: Origin, class_names: list[str], source: Path) -> StateDict:
    """Return ``state`` with a logit per class; a single sigmoid logit becomes two softmax logits.

    Raises:
        UserError: the numbers of logits and classes differ.
    """
    head = state.get(origin.name_of("head.bias"), torch.zeros(len(class_names)))  # a missing head is reported later
    if (logits := head.numel()) == 1 and len(class_names) == 2:
        logger.info("single sigmoid logit: adding a logit of 0 for %s", class_names[0])
        return with_background(state, origin)
    if logits != len(class_names):
        raise UserError(
            f"{source}: its network has {counted(logits, 'logit')} per pixel, the data config has "
            f"{len(class_names)} classes ({abbreviated(class_names, most=3)}). Give the network's classes in order: "
            "data=custom 'data.class_names=[...]'; a single sigmoid logit has two: background and the object."
        )
    return state


def conclude(cfg: DictConfig, checkpoint: Checkpoint) -> None:
    """Log what was written and the next steps."""
    names, output = checkpoint.class_names, setting("checkpoint", cfg.output)
    logger.info(
        "written to %s: %s's network with the encoder %s, %s parameters, %d classes (%s)",
        cfg.output,
        cfg["from"],
        encoder_of(cfg.model),
        f"{sum(parameter.numel() for parameter in checkpoint.net.parameters()):,}",
        len(names),
        ", ".join(names),
    )
    logger.info("evaluate:  python -m segunet.evaluate %s data.root=PATH", output)
    logger.info("predict:   python -m segunet.predict %s input=PATH", output)


@command("convert")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    conclude(cfg, convert(cfg))


if __name__ == "__main__":
    main()
