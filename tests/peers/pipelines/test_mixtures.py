"""On an exact mixture, in one pipeline, tAB3 and a learned table are nearer to the solution than diffusers' solvers."""

import pytest

pytest.importorskip("torch", reason="runs diffusers' pipelines; make test-peers installs them")
pytest.importorskip("diffusers", reason="runs diffusers' pipelines; make test-peers installs them")

from benchmarks import pipelines

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # diffusers' own


@pytest.mark.parametrize("nfe", [5, 10, 20])
def test_tab3_beside_diffusers_at_the_same_times(nfe: int) -> None:
    errors = {name: pipelines.error(make(nfe), nfe) for name, make in pipelines.SCHEDULERS.items() if name != "learned"}
    peers = [error for name, error in errors.items() if name.startswith("diffusers")]
    assert len(peers) == 4
    assert errors["tAB3, its own times"] < errors["tAB3, the same times"] < 0.5 * min(peers)


def test_a_learned_table_through_the_pipeline() -> None:
    tab3, learned = (pipelines.SCHEDULERS[name](5) for name in ("tAB3, its own times", "learned"))
    assert pipelines.error(learned, 5) < 0.1 * pipelines.error(tab3, 5)
