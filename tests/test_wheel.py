"""A plain install of the built wheel works from any folder, conf/ included."""

import subprocess
import sys
import venv
from pathlib import Path

from tests.commands import TINY

PROJECT = Path(__file__).parent.parent


def test_an_installed_wheel_trains_a_step(voc_folder: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(PROJECT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next(tmp_path.glob("segunet-*.whl"))
    venv.create(tmp_path / "venv")
    python = str(tmp_path / "venv" / "bin" / "python")
    # torch and the others come from this environment; segunet itself does not: the checkout is not on the path.
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True)
    theirs = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(theirs) + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    train = [python, "-m", "segunet.train", *TINY, f"data.root={voc_folder}", "trainer.max_steps=1"]
    result = subprocess.run(train, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    assert list(elsewhere.glob("outputs/train/*/checkpoints/last.ckpt"))
    assert (site / "bin" / "segunet").is_file()
    where = "import segunet.base.paths; print(segunet.base.paths.CONF_DIR)"
    found = subprocess.run([python, "-c", where], cwd=elsewhere, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()) == site / "segunet" / "conf"
