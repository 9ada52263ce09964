"""Files that torch itself saves, read without torch."""

import io

import numpy as np
import pytest

from formats.torch_pickle import load

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
