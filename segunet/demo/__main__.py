"""Show a network on a page in the browser: ``python -m segunet.demo checkpoint=PATH``."""

from segunet.cli.arguments import before_imports

if __name__ == "__main__":  # before the imports below, which take seconds
    before_imports("demo")

import logging
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field

from segunet.base.errors import UserError, abbreviated, counted
from segunet.base.validation import Above0, check
from segunet.cli.command import command
from segunet.cli.run_dir import as_paths
from segunet.demo.server import Server
from segunet.demo.subject import Subject
from segunet.inference.ensemble import load_checkpoints

logger = logging.getLogger("segunet.demo")  # __name__ is "__main__" when run as a program
_SETTINGS = ("tile", "overlap", "inference_size", "image_range", "accelerator", "precision")


def demo(cfg: DictConfig) -> None:
    """Serve the page until a signal ends it.

    Raises:
        UserError: anything the user can fix.
    """
    if cfg.checkpoint in (None, ""):
        raise UserError("Which checkpoint? Give checkpoint=PATH, such as a run's checkpoints/best.ckpt.")
    port = check("port", cfg.port, Annotated[int, Field(ge=0, le=65535)])
    most = round(1e6 * check("max_megabytes", cfg.max_megabytes, Above0))
    paths = as_paths(cfg.checkpoint)
    checkpoint = load_checkpoints(paths)
    if checkpoint.data.bands is not None:
        raise UserError(f"The network is for rasters of {counted(checkpoint.data.bands, 'band')}: use segunet.predict.")
    subject = Subject(checkpoint, ", ".join(map(str, paths)), {name: cfg[name] for name in _SETTINGS})
    with Server(subject, port, most) as server:
        names = subject.model.class_names
        logger.info("%d classes (%s), on %s", len(names), abbreviated(names), subject.model.fabric.device)
        logger.info("open http://127.0.0.1:%d in a browser on this machine; Ctrl-C ends it", server.server_port)
        try:
            server.serve_forever()
        finally:
            server.subject.finish()


@command("demo")
def main(cfg: DictConfig) -> None:
    """Run the command."""
    demo(cfg)


if __name__ == "__main__":
    main()
