"""Files of torch.save."""

from pathlib import Path

import pytest
import torch

from segunet.base.errors import UserError
from segunet.base.torch_file import read_torch_file


def test_a_file_with_code_in_it_is_refused_with_the_code_s_name_and_no_advice_to_trust_it(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(UserError) as error:
        read_torch_file(tmp_path / "model.pt", "Give another.")
    assert "Unsupported global: GLOBAL torch.nn.modules.linear.Linear" in str(error.value)
    assert "weights_only" not in str(error.value)
    assert "\x1b" not in str(error.value)
