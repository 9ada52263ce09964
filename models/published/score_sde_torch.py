"""Reader of the checkpoints of score_sde's PyTorch code, {"model": state_dict, "ema": {"shadow_params": [...]}, ...}.

Its networks are those of the JAX code, with modules numbered in the order in which they are made:
all_modules.3.Conv_0.weight. The averages are a list, in the order of the state_dict's trained parameters.
"""

from pathlib import Path
from typing import Any

import numpy as np

from formats.short import short
from formats.torch_pickle import read_torch
from models.published.allowed import errors_naming
from models.published.translate import Tensors

_FROZEN = "all_modules.0.W"  # frequencies of the Fourier embedding, which are not trained and not averaged
_BUFFER = "sigmas"  # the noise levels of training in discrete steps


def read_averages(path: Path) -> Tensors:
    """Return the EMA parameters and the frequencies of a Fourier embedding, by their names in the state_dict.

    Raises FileNotFoundError; ValueError for a file that is damaged, asks for code, or holds something else.
    """
    content = read_torch(path)
    with errors_naming(path):
        model, averages = _entry(content, "model"), _entry(content, "ema").get("shadow_params")
        state = {str(name).removeprefix("module."): tensor for name, tensor in model.items()}
        trained = [name for name in state if name not in (_FROZEN, _BUFFER)]
        if not isinstance(averages, list) or len(averages) != len(trained):
            count = len(averages) if isinstance(averages, list) else "no"
            raise ValueError(f"its ema has {count} shadow_params, and its model {len(trained)} trained parameters")
        tensors = dict(zip(trained, averages, strict=True))
        for name, tensor in tensors.items():
            if not (isinstance(tensor, np.ndarray) and np.shape(state[name]) == tensor.shape):
                raise ValueError(f"the shadow_params of {short(name)} are not a tensor of that parameter's shape")
        if isinstance(state.get(_FROZEN), np.ndarray):
            tensors[_FROZEN] = state[_FROZEN]
        return tensors


def _entry(content: Any, name: str) -> dict[Any, Any]:
    if not isinstance(content, dict) or not isinstance(content.get(name), dict):
        raise ValueError(f"it has no dictionary {name!r}, as a checkpoint of score_sde's PyTorch code has")
    return content[name]
