"""Evaluations in training; that their FIDs are those of sample.py is in tests/test_sample.py."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import deis
from eval import evaluator
from models.sampling.draw import Trained
from models.score import Network
from runs.errors import NonFiniteError


def test_samples_that_are_not_finite_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As uint8 they would be black images, and have a FID."""
    sde = deis.vp_linear()
    good, bad = np.zeros((2, 2, 2, 1)), np.full((2, 2, 2, 1), [[[0.0], [np.nan]]])
    monkeypatch.setattr(evaluator, "draw", lambda *_: iter([good, bad]))
    monkeypatch.setattr(
        evaluator, "trained", lambda *_: Trained(Network(lambda params, x, *_: x), {}, sde, (2, 2, 1), 0)
    )
    table = deis.tables.ddim(sde, np.array([1.0, 1e-3]))
    training: Any = SimpleNamespace(model=None, sde=None, table=table, options=None, worse=None, _replicate=dict)
    with pytest.raises(NonFiniteError, match="for 2 of 2 images, seed 2 first"):
        evaluator.Evaluator._samples(training, {}, 4, 2)
