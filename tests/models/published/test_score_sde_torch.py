"""Checkpoints of score_sde's PyTorch code become the network that the JAX code's do, which answers as its formulas."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_files
from score_sde_files import DDPM, DDPMPP, NCSNPP, make_tensors, torch_content, torch_state, write

from models.published.score_sde import read_score_sde
from models.published.translate import flat

CONFIGS = {"ddpm": DDPM, "ddpmpp": DDPMPP, "ncsnpp": NCSNPP}


@pytest.mark.parametrize("form", [torch_files.zipped, torch_files.legacy])
@pytest.mark.parametrize("kind", CONFIGS)
def test_the_averages_become_the_network_that_jax_s_become(
    kind: str, form: Callable[..., bytes], tmp_path: Path
) -> None:
    tensors, path = make_tensors(kind), tmp_path / "checkpoint_24.pth"
    state = torch_state(kind, tensors)
    assert sum(t.size for t in state.values()) == sum(t.size for t in tensors.values())
    path.write_bytes(form(*torch_content(state)))
    found = read_score_sde(path, CONFIGS[kind])
    expected = read_score_sde(write(tmp_path / "checkpoint_24", tensors), CONFIGS[kind])
    assert found._replace(source="", params={}) == expected._replace(source="", params={})
    ours, theirs = flat(found.params), flat(expected.params)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema": None}, "it has no dictionary 'ema', as a checkpoint of score_sde's PyTorch code has"),
        ({"model": [1]}, "it has no dictionary 'model', as a checkpoint of score_sde's PyTorch code has"),
        ({"ema": {"shadow_params": [1, 2]}}, "its ema has 2 shadow_params, and its model 154 trained parameters"),
        ({"ema": {}}, "its ema has no shadow_params, and its model 154 trained parameters"),
        ({"ema": {"shadow_params": [1] * 154}}, "the shadow_params of all_modules.0.weight are not a tensor of that"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_8.pth"
    path.write_bytes(torch_files.zipped(*torch_content(torch_state("ddpmpp", make_tensors("ddpmpp")), **changes)))
    with pytest.raises(ValueError) as refused:
        read_score_sde(path, DDPMPP)
    assert str(refused.value).startswith(f"{path}: {said}")


def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_8.pth"
    path.write_bytes(torch_files.zipped(*torch_content(torch_state("ddpmpp", make_tensors("ddpmpp")))))
    with pytest.raises(ValueError, match=r"tensor all_modules\.0\.W, all_modules\..* more is missing"):
        read_score_sde(path, NCSNPP)
