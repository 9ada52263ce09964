"""The work-precision benchmark beside diffusers, on two small problems."""

import pytest

pytest.importorskip("torch", reason="compares with diffusers, which needs torch; make test-peers installs both")
pytest.importorskip("diffusers", reason="compares with diffusers; make test-peers installs it")

from benchmarks import report, work_precision
from benchmarks.problems import problem

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own, of NumPy and torch

NFES = (5, 10)


@pytest.mark.parametrize("model", ["VP linear", "VE"])
def test_no_scheduler_is_better(model):
    """Ours of the same method has the same error, and the best of ours that of the best of all, or a smaller one."""
    small = problem(model, "2-d, 3 wide")
    ours, (theirs, same) = work_precision.our_errors(small, NFES), work_precision.paired_errors(small, NFES)
    for key, error in theirs.items():
        assert same[key] == pytest.approx(error, abs=report.ROUNDING), key
    for nfe in NFES:
        least = [min(error for key, error in errors.items() if key[3] == nfe) for errors in (ours, theirs)]
        assert least[0] < least[1]
