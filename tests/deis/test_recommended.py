"""The recommended table: what it is for every kind of diffusion, and that it is nearer than the library's default."""

import numpy as np
import pytest
from reference import problem

import deis
from deis import tables
from deis.tables.recommended import RECOMMENDATIONS, kind

SDES = {
    "signal and noise": (deis.vp_linear(), deis.vp_cosine(), deis.sub_vp(), deis.discrete_vp()),
    "constant signal": (deis.ve(), deis.edm()),
    "pure noise at T": (deis.flow(), deis.flow(3.0), deis.vp_zero_snr(), deis.discrete_vp(zero_terminal_snr=True)),
}


@pytest.mark.parametrize("name", SDES)
def test_every_kind_has_a_table_of_any_number_of_calls(name: str) -> None:
    for sde in SDES[name]:
        assert kind(sde) == name
        for nfe in (1, 2, 6, 7, 12, 13, 16, 17, 29, 30, 44, 45, 100):
            table = tables.recommended(sde, nfe)
            assert table.nfe == nfe
            assert np.all(np.isfinite(table.P))
    bounds = [one.most_calls for one in RECOMMENDATIONS[name]]
    assert bounds == sorted(bounds)
    assert bounds[-1] == np.inf


def test_what_it_is_by_the_kind_and_the_calls() -> None:
    sde = deis.vp_linear()
    np.testing.assert_array_equal(
        tables.recommended(sde, 10).P, tables.build(sde, num_step=10, method="ipndm", ab_order=2).P
    )
    np.testing.assert_array_equal(
        tables.recommended(sde, 30).P, tables.build(sde, num_step=30, method="unipc", order=3, ts_order=3.0).P
    )
    names = [tables.recommended(sde, nfe).name for nfe in (6, 7, 17, 45)]
    assert names == ["UniPC3", "iPNDM3", "UniPC3", "logrhoAB4+C"]
    assert tables.recommended(deis.ve(), 20).name == "logrhoAB4"


@pytest.mark.parametrize("nfe", [10, 20])
@pytest.mark.parametrize("sde", [deis.vp_linear(), deis.ve(), deis.flow(3.0, t_0=1e-3)], ids=["VP", "VE", "flow"])
def test_it_is_nearer_to_the_exact_answer_than_the_library_default(sde: deis.SDE, nfe: int) -> None:
    x_T, eps_fn = problem.start(sde, 64), problem.MIXTURE.eps_fn(sde)
    exact = problem.MIXTURE.flow(sde, x_T, np.array([sde.T, sde.t_0]))[-1]

    def error(table: deis.Table) -> float:
        return float(np.sqrt(np.mean((problem.run(table, eps_fn, x_T) - exact) ** 2)))

    assert error(tables.recommended(sde, nfe)) < error(tables.build(sde, num_step=nfe))
