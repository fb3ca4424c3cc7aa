"""A denoiser of latents, through the commands: a folder of .npy files, trained on, generated, decoded."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

import segunet
from segunet import check_data, evaluate, export, generate, train
from segunet.base.errors import UserError
from segunet.data.latents import LatentsDataModule, read_latent
from segunet.inference.checkpoint import read_card
from segunet.inference.generator import load_denoiser
from tests.commands import TINY_DENOISER, Command, main

AutoencoderKL: Any = diffusers.AutoencoderKL

SETTINGS = [each for each in TINY_DENOISER if "transform" not in each and "data=custom" not in each]
SETTINGS += ["data=latents", "model.in_channels=4"]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write four training latents and two for validation, (4, 16, 16), float32 and float16."""
    root = tmp_path_factory.mktemp("latents")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        (root / split).mkdir()
        for number in range(count):
            values = rng.normal(0, 5, (4, 16, 16)).astype(np.float16 if number % 2 else np.float32)
            np.save(root / split / f"{number}.npy", values)
            (root / split / f"{number}.txt").write_text(["disc, square\n", "square", "", " disc "][number])
    return root


@pytest.fixture(scope="module")
def checkpoint(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for one epoch."""
    run_dir = tmp_path_factory.mktemp("run")
    main(train, *SETTINGS, f"data.root={latents}", "trainer.max_epochs=1", f"run_dir={run_dir}")
    return run_dir / "checkpoints" / "best.ckpt"


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    """Save a tiny autoencoder of 4 x 16 x 16 latents and images of 32 x 32."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return saved(tmp_path / "vae", block_out_channels=(8, 8), **blocks)


def saved(folder: Path, **options: Any) -> Path:
    """Save a random autoencoder."""
    AutoencoderKL(norm_num_groups=4, **options).save_pretrained(folder)
    return folder


def test_examples_are_scaled_and_have_their_prompts(latents: Path) -> None:
    data = LatentsDataModule(str(latents), ["background", "disc", "square"], "train", "val", scale=0.2, batch_size=2)
    data.setup("fit")
    assert (data.channels, data.side) == (4, 16)
    batch = next(iter(data.val_dataloader()))
    assert batch.images.dtype == torch.float32
    assert np.allclose(batch.images[0], np.load(latents / "val" / "0.npy") * 0.2, atol=1e-6)
    assert batch.masks.tolist() == [[[1, 2]]]
    rest = [each.masks.flatten().tolist() for each in data.val_dataloader()]
    assert rest == [[1, 2], [0, 2]]
    names = [name for each in data.train_dataloader() for name in each.names]
    assert sorted(names) == [f"train/{number}" for number in range(4)]


@pytest.mark.parametrize(("scale", "said"), [(0.2, False), (2.0, True), (0.01, True)])
def test_a_scale_far_from_the_noise_s_is_said(
    latents: Path, scale: float, said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = LatentsDataModule(str(latents), ["background", "disc", "square"], "train", "val", scale)
    datamodule.setup("fit")
    datamodule.check_labels()
    assert ("try data.scale=0.2" in caplog.text) == said  # their standard deviation is 5


def test_generated_latents_have_the_stored_ones_scale(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    card = read_card(checkpoint)
    assert card.denoiser is not None
    assert (card.denoiser.latent_scale, card.denoiser.size) == (0.18215, 16)
    arguments = [f"checkpoint={checkpoint}", "prompt=disc", "count=3", "steps=2", "batch_size=2"]
    result = run(generate, *arguments, f"output={tmp_path}/out")
    assert result.status == 0, result.error
    assert "3 latents, " in result.output
    assert sorted(path.name for path in (tmp_path / "out" / "latents").iterdir()) == [
        f"{number:04d}.npy" for number in range(3)
    ]
    assert not (tmp_path / "out" / "grid.png").exists()
    again = segunet.load(checkpoint).generate("disc", count=3, steps=2)
    for number, wanted in enumerate(again):
        got = np.load(tmp_path / "out" / "latents" / f"{number:04d}.npy")
        assert got.shape == (4, 16, 16)
        assert got.dtype == np.float32
        assert np.allclose(got, wanted, atol=1e-4)
    assert 2 < again.std() < 20  # noise of 1, divided by 0.18215: the network has hardly learned


def test_an_autoencoder_makes_images_of_them(run: Command, checkpoint: Path, vae: Path, tmp_path: Path) -> None:
    arguments = [f"checkpoint={checkpoint}", "count=2", "steps=2"]
    result = run(generate, *arguments, f"vae={vae}", f"output={tmp_path}/out")
    assert result.status == 0, result.error
    assert {"images", "grid.png", "film.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    got = np.asarray(Image.open(tmp_path / "out" / "images" / "0001.png"))
    stored = torch.from_numpy(segunet.load(checkpoint).generate(count=2, steps=2))
    with torch.inference_mode():
        decoded = AutoencoderKL.from_pretrained(vae).decode(stored).sample[1]
    wanted = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(got - wanted).max() <= 1


def test_a_wrong_autoencoder_is_one_paragraph(
    run: Command, checkpoint: Path, denoiser: Path, vae: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    saved(tmp_path / "other", block_out_channels=(8,), latent_channels=8)
    saved(tmp_path / "grey", block_out_channels=(8,), out_channels=1)
    weights = vae / "diffusion_pytorch_model.safetensors"
    shutil.copytree(vae, tmp_path / "part")
    rest = {name: value for name, value in load_file(weights).items() if not name.startswith("decoder.conv_in")}
    save_file(rest, tmp_path / "part" / weights.name)
    images = denoiser / "checkpoints" / "best.ckpt"
    for source, folder, message in (
        (checkpoint, tmp_path / "none", "has no config.json"),
        (checkpoint, tmp_path / "broken", "cannot be read as an AutoencoderKL"),
        (checkpoint, tmp_path / "other", "decodes latents of 8 channels, the denoiser's have 4"),
        (checkpoint, tmp_path / "grey", "decodes to 1 channels, images have 3"),
        (
            checkpoint,
            tmp_path / "part",
            "lacks weights of its AutoencoderKL: decoder.conv_in.bias, decoder.conv_in.weight",
        ),
        (images, vae, "this denoiser makes images, which need no autoencoder"),
    ):
        result = run(generate, f"checkpoint={source}", f"vae={folder}", f"output={tmp_path}/out")
        assert (result.status, result.error.count("\n") <= 1) == (1, True)
        assert message in result.error
        assert not (tmp_path / "out").exists()


def test_the_vocabulary_has_room_for_each_name() -> None:
    names = ["background", *(f"name {number}" for number in range(1, 256))]
    data = LatentsDataModule("nowhere", names[:255], "train", "val", scale=1.0)
    assert list(data.vocabulary) == list(range(1, 255))
    with pytest.raises(UserError, match="has 256 names, latents take at most 255"):
        LatentsDataModule("nowhere", names, "train", "val", scale=1.0)


def test_it_is_exported_and_resumed(run: Command, checkpoint: Path, tmp_path: Path) -> None:
    result = run(export, f"checkpoint={checkpoint}", f"output={tmp_path}/latents.onnx")
    assert result.status == 0, result.error
    assert "float32 (N, 4, H, W), latents" in " ".join(result.output.split())
    result = run(train, f"resume={checkpoint.parent.parent}", "trainer.max_epochs=2")
    assert result.status == 0, result.error
    assert load_denoiser(checkpoint).latent_scale == 0.18215


def of(values: NDArray[np.generic]) -> Callable[[Path], None]:
    return lambda path: np.save(path / "train" / "0.npy", values)


def prompt(content: bytes) -> Callable[[Path], object]:
    return lambda path: (path / "train" / "0.txt").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of(np.zeros((4, 16, 16), dtype=np.int64)), "0.npy is int64 (4, 16, 16). Wanted one latent, float (C, H, W)"),
        (of(np.zeros((16, 16), dtype=np.float32)), "0.npy is float32 (16, 16). Wanted one latent"),
        (of(np.zeros((4, 16, 8), dtype=np.float32)), "the latents must be square"),
        (of(np.zeros((4, 8, 8), dtype=np.float32)), "all latents must be of one size"),
        (of(np.zeros((4, 0, 0), dtype=np.float32)), "Wanted one latent"),
        (of(np.full((4, 16, 16), np.nan, dtype=np.float32)), "0.npy contains NaN or infinity"),
        (of(np.full((4, 16, 16), 1e300)), "0.npy contains NaN or infinity"),
        (of(np.array([{}], dtype=object)), "0.npy is no .npy file of numbers"),
        (lambda path: (path / "train" / "0.npy").write_bytes(b"\x93NUMPY\x01\x00"), "0.npy is no .npy file of numbers"),
        (lambda path: (path / "train" / "0.npy").write_bytes(b"PK\x03\x04" + bytes(60)), "0.npy is no .npy file of"),
        (lambda path: cut(path / "train" / "0.npy"), "0.npy is no .npy file of numbers"),
        (lambda path: (path / "train" / "0.txt").unlink(), "0.npy has no prompt: there is no file 0.txt"),
        (prompt(b"disc, cat"), "0.txt: prompt='disc, cat': the network does not know cat. It knows disc, square"),
        (prompt(b"\xff\xfe"), "0.txt cannot be read as UTF-8 text"),
        (
            prompt(b"disc," * 5000),
            "0.txt cannot be read as UTF-8 text, a prompt of class names: it has more than 10,000 bytes",
        ),
        (lambda path: [each.unlink() for each in (path / "val").glob("*.npy")], "val holds no .npy file"),
    ],
)
def test_bad_files_are_one_paragraph_and_nothing_is_written(
    run: Command, latents: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    root = tmp_path / "latents"
    for path in latents.rglob("*.*"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    spoil(root)
    result = run(train, *SETTINGS, f"data.root={root}", f"run_dir={tmp_path}/run")
    assert result.status == 1
    assert message in result.error
    assert result.error.count("\n") <= 1
    assert not (tmp_path / "run").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_a_header_that_promises_more_than_the_file_has_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    np.save(path, np.zeros((4, 16, 16), dtype=np.float32))
    path.write_bytes(path.read_bytes().replace(b"(4, 16, 16), }    ", b"(4, 4096,4096), }"))
    with pytest.raises(UserError, match=r"huge\.npy is no \.npy file of numbers"):
        read_latent(path)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            ["model.in_channels=3"],
            "model.in_channels=3: the latents that it is trained on have 4 channels. Set it to 4",
        ),
        (["+data.transform={color_jitter: 0}"], "data.transform is no setting here; remove it: '~data.transform'"),
        (["data.scale=0"], "data.scale must be greater than 0"),
        (["data.root=nowhere"], "nowhere/train does not exist. Wanted a folder of latents"),
        (["data.batch_size=5"], "data.batch_size is 5"),
        (["data.class_names=[background,'a,b']"], "so that none can name 'a,b'"),
        (["data.class_names=[background,' a']"], "so that none can name ' a'"),
        (["model.encoder.num_maps=5", "model.decoder.widths=[8,8,8,8,8]"], "A side of 16 does not fit the network"),
    ],
)
def test_bad_settings_are_one_paragraph(
    run: Command, latents: Path, own: list[str], message: str, tmp_path: Path
) -> None:
    result = run(train, *SETTINGS, f"data.root={latents}", *own, f"run_dir={tmp_path}/run")
    assert result.status == 1
    assert message in result.error
    assert not (tmp_path / "run").exists()


def test_other_commands_say_that_latents_are_no_masks(
    run: Command, latents: Path, checkpoint: Path, tmp_path: Path
) -> None:
    data = ["data=latents", f"data.root={latents}", "data.class_names=[background,disc,square]"]
    for module, arguments, message in (
        (train, [*data, "data.batch_size=2", "model.encoder.weights=null"], "data=latents has prompts, not masks"),
        (check_data, data, "data=latents has no masks"),
        (evaluate, [f"checkpoint={checkpoint}"], "denoiser"),
    ):
        result = run(module, *arguments, f"run_dir={tmp_path}/run")
        assert (result.status, message in result.error) == (1, True), result.error
        assert not (tmp_path / "run").exists()
