"""The package as it is imported."""

import os
import subprocess
import sys

import segunet

ASK_NOBODY = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("asked", arguments)
        raise OSError("no network")

sys.addaudithook(refuse)
import segunet.train
"""


def test_an_import_asks_nobody() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run(
        [sys.executable, "-c", ASK_NOBODY], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


def test_an_import_loads_nothing_that_takes_long_until_it_is_used() -> None:
    code = "import sys, segunet; assert 'torch' not in sys.modules; segunet.load; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in segunet.__all__:
        assert getattr(segunet, name)
    assert not hasattr(segunet, "unknown")
