"""Where ``conf/``, ``data/`` and ``outputs/`` are, from a checkout or from an installed wheel."""

from pathlib import Path

PACKAGE_DIR = Path(__file__).resolve().parent.parent
_CHECKOUT = PACKAGE_DIR.parent
_IS_CHECKOUT = (_CHECKOUT / "conf" / "train.yaml").is_file()

# A wheel has conf/ inside the package; its data and runs go to the working directory.
CONF_DIR = _CHECKOUT / "conf" if _IS_CHECKOUT else PACKAGE_DIR / "conf"
_HOME = _CHECKOUT if _IS_CHECKOUT else Path.cwd()
DATA_DIR = _HOME / "data"
OUTPUTS_DIR = _HOME / "outputs"
