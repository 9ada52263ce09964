"""Every sampler and SDE that the command line offers is built, with the number of network calls that is asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import CONF
from jobs import job as job_of

import deis
from deis import tables
from models.sampling import build
from models.sampling.build import SDES, build_sde, build_table, check_sampler, solver_of

SAMPLERS = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
SDE_NAMES = sorted(path.stem for path in (CONF / "sde").glob("*.yaml"))


def job(*overrides: str) -> Any:
    return job_of("train", *overrides)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "learned"])
def test_every_sampler_makes_its_default_nfe(name: str) -> None:
    options = job(f"sampler={name}")
    table = build_table(options.sampler, build_sde(options.sde))
    assert table.nfe == options.sampler["nfe"] or options.sampler["round_nfe"]


def test_the_recommended_sampler_ends_where_it_is_asked_to() -> None:
    table = build_table(
        job("sampler=recommended", "sampler.nfe=12", "sampler.t_0=0.02").sampler, build_sde({"name": "ve"})
    )
    assert table.nfe == 12
    assert table.t[-1] == 0.02
    with pytest.raises(ValueError, match="sampler=recommended has times of its own and cannot be put on others"):
        solver_of(check_sampler(job("sampler=recommended").sampler))


def test_checked_options_are_options_again() -> None:
    """A paper's rows are checked, and then built for every column."""
    for name in ("recommended", "tab3", "edm_heun", "seeds"):
        found = check_sampler(job(f"sampler={name}").sampler)
        assert check_sampler(found) == found


def test_every_method_has_a_file_and_every_sde_too() -> None:
    assert set(tables.METHODS) <= set(SAMPLERS)
    assert set(SDES) == set(SDE_NAMES)


@pytest.mark.parametrize("name", SDE_NAMES)
def test_every_sde_is_built_with_its_options(name: str) -> None:
    option, attribute, value = ("num_times", "T", 49) if name == "discrete_vp" else ("t_0", "t_0", 0.02)
    given = 50 if name == "discrete_vp" else value
    assert getattr(build_sde(job(f"sde={name}", f"sde.{option}={given}").sde), attribute) == value


@pytest.mark.parametrize(
    ("overrides", "nfe"),
    [
        (["sampler=tab3", "sampler.nfe=1"], 1),
        (["sampler=t_ab", "sampler.denoise=true", "sampler.nfe=10"], 10),
        (["sampler=rho2heun", "sampler.nfe=5"], 6),
        (["sampler=rho4rk", "sampler.nfe=1"], 4),
        (["sampler=edm_heun", "sampler.nfe=35"], 35),
        (["sampler=f_pndm", "sampler.nfe=50"], 50),
        (["sampler=dpm_solver", "sampler.order=3", "sampler.nfe=9"], 9),
    ],
)
def test_nfe_is_exact_or_rounded_up(overrides: list[str], nfe: int) -> None:
    options = job(*overrides)
    assert build_table(options.sampler, build_sde(options.sde)).nfe == nfe


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["sampler=rho_rk", "sampler.nfe=10"], "sampler.nfe=9 or 12"),
        (["sampler=rho_rk", "sampler.nfe=1"], "sampler.nfe=3,"),
        (["sampler=edm_heun", "sampler.nfe=10"], "sampler.nfe=9 or 11"),
        (["sampler=f_pndm", "sampler.nfe=10"], "sampler.nfe=8 or 12"),
        (["sampler=unipc", "sampler.order=9"], "order"),
        (["sampler=ipndm", "sampler.order=0"], "order"),
        (["sampler=t_ab", "sampler.method=magic"], "sampler.method must be one of"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    options = job(*overrides)
    with pytest.raises(ValueError, match=said):
        build_table(options.sampler, build_sde(options.sde))


def test_another_end_time() -> None:
    options = job("sampler=t_ab", "sampler.t_0=0.05")
    assert build_table(options.sampler, build_sde(options.sde)).t[-1] == 0.05


def test_own_nodes_are_the_tables_nodes() -> None:
    options = job("sampler=t_ab", "sampler.ts=[1,0.4,0.1,0.001]", "sampler.nfe=77")
    assert list(build_table(options.sampler, build_sde(options.sde)).t) == [1.0, 0.4, 0.1, 0.001]
    two_stages = job("sampler=rho2heun", "sampler.ts=[1,0.4,0.001]")
    assert build_table(two_stages.sampler, build_sde(two_stages.sde)).nfe == 4


@pytest.mark.parametrize(
    ("ts", "said"),
    [
        ("[1.5,0.5,0.001]", "sampler.ts must lie between the diffusion's t_0=0.001 and T=1, got 1.5; sampler.t_0 sets"),
        ("[1,0.0001]", "got 0.0001"),
        ("[1,nan]", "got nan"),
        ("[1,0.2,0.3]", "decrease strictly, but 0.2 is followed by 0.3"),
        ("[1]", "at least 2 nodes"),
        ("[]", "at least 2 nodes"),
    ],
)
def test_nodes_that_no_solver_takes_are_refused(ts: str, said: str) -> None:
    options = job(f"sampler.ts={ts}")
    with pytest.raises(ValueError, match=said):
        build_table(options.sampler, build_sde(options.sde))


def test_optimized_nodes_are_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "KEPT", tmp_path)
    options = job("sampler=ipndm", "sampler.order=3", "sampler.nfe=5", "sampler.ts_phase=optimized")
    sde = build_sde(options.sde)
    table = build_table(options.sampler, sde)
    assert table.nfe == 5
    np.testing.assert_array_equal(table.t, deis.tables.build(sde, "optimized", 0, 5, "ipndm", 2).t)
    (kept,) = tmp_path.iterdir()
    np.savez(kept, ts=deis.timesteps(sde, 5, "edm"))
    np.testing.assert_array_equal(build_table(options.sampler, sde).t, deis.timesteps(sde, 5, "edm"))
    assert build_table({**options.sampler, "order": 4}, sde).t[1] != deis.timesteps(sde, 5, "edm")[1]
    assert len(list(tmp_path.iterdir())) == 2
