"""Files that torch itself saves, read without torch."""

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from score_sde_files import NCSNPP, make_tensors, torch_state, write

from formats.torch_pickle import load
from models.published.score_sde import read_score_sde
from models.published.translate import flat

torch = pytest.importorskip("torch", reason="compares with torch; make test-peers installs it")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_what_torch_saves(zipped: bool, dtype: str) -> None:
    """A state_dict, with views of one storage, is read as torch reads it."""
    torch.manual_seed(0)
    both = (50 * torch.rand(6, 7)).to(getattr(torch, dtype))
    layer = torch.nn.BatchNorm2d(4)
    content = {"both": both, "part": both.T[2:5, 1::2], "layer": layer.state_dict(), "epoch": 3}
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    found = load(file.getvalue())
    assert found["epoch"] == 3
    assert found["both"].dtype.name == dtype
    for name, tensor in {**layer.state_dict(), "both": both, "part": content["part"]}.items():
        ours = (found["layer"] | found)[name]
        np.testing.assert_array_equal(ours.astype(np.float64), tensor.double().numpy(), err_msg=name)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_checkpoint_of_score_sde_s_pytorch_code(zipped: bool, tmp_path: Path) -> None:
    """Saved by torch with the state of a real optimiser, whose second moments are float32 tensors too."""
    tensors, path = make_tensors("ncsnpp"), tmp_path / "checkpoint_24.pth"
    averages = {name: torch.tensor(tensor) for name, tensor in torch_state("ncsnpp", tensors).items()}
    weights = [torch.nn.Parameter(torch.zeros_like(tensor)) for tensor in averages.values()]
    optimizer = torch.optim.Adam(weights[1:], lr=2e-4)
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    named = dict(zip(averages, weights, strict=True)) | {"all_modules.0.W": averages["all_modules.0.W"]}
    content = {
        "optimizer": optimizer.state_dict(),
        "model": OrderedDict((f"module.{name}", weight) for name, weight in named.items()),
        "ema": {"decay": 0.999, "num_updates": 1, "shadow_params": list(averages.values())[1:]},
        "step": 1,
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = flat(read_score_sde(path, NCSNPP).params)
    expected = flat(read_score_sde(write(tmp_path / "checkpoint_24", tensors), NCSNPP).params)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
