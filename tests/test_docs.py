"""The examples in the documentation run, and its tables name what there is."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from reference import problem

import deis
from deis import tables

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SHAPE = (16, 8, 8, 3)


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def run(page: str) -> dict[str, Any]:
    """The names left behind by the blocks of a page, run one after the other on a toy network."""
    names: dict[str, Any] = {
        "eps_fn": lambda x, t: jnp.tanh(x),
        "v_network": lambda x, t: 0.1 * x,
        "flow_network": lambda x, t: x * (t / 1000),
        "denoiser": lambda x, sigma: x / (1 + sigma**2),
        "integer_network": integer_network,
        "conditional": lambda x, t, labels: jnp.tanh(x) + 0.01 * labels[:, None, None, None],
        "smaller_network": lambda x, t: 0.9 * jnp.tanh(x),
        "labels": jnp.arange(16),
        "no_labels": jnp.zeros(16, int),
        "known": jnp.zeros(SHAPE),
        "mask": jnp.ones(SHAPE, bool).at[:, 4:].set(False),
        "data": jnp.ones(SHAPE),
        "images": np.zeros(SHAPE, np.uint8),
        "torch_eps_fn": lambda x, t: x.tanh(),
    }
    for block in blocks(page):
        if "torch" not in block or find_spec("torch"):
            exec(compile(block, page, "exec"), names)
            assert np.all(np.isfinite(np.asarray(names["x_0"]))), block
    return names


def integer_network(x, t):
    assert t.dtype == jnp.int32
    return jnp.tanh(x)


def test_a_page_says_what_its_placeholder_stands_for():
    pages = {path: path.read_text() for path in (ROOT / "docs").rglob("*.md")}
    with_it = {path: text for path, text in pages.items() if re.search(r"\bRUN\b", text)}
    assert {path.stem for path in with_it} >= {"clusters", "few_calls", "sample", "solvers"}
    assert [path for path, text in with_it.items() if "`RUN` is the folder of a training" not in text] == []


def test_the_library_example_of_the_readme():
    assert run("README.md")["x_0"].shape == (64, 32, 32, 3)


@pytest.mark.parametrize("page", ["index.md", "tutorials/own_code.md", "tutorials/own_solver.md"])
def test_the_pages_that_begin_with_code(page: str) -> None:
    run(f"docs/{page}")


def test_the_page_on_few_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("docs/few_calls.md")
    far, near = (
        jnp.mean((deis.sample(names[table], names["eps_fn"], names["x_T"]) - names["x_0"]) ** 2)
        for table in ("base", "table")
    )
    assert near < 0.5 * far


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return run("docs/solvers.md")


def test_examples_do_what_is_said(names):
    np.testing.assert_array_equal(names["of_steps"](names["noise"], 1.0), jnp.tanh(names["noise"]))
    assert names["guided"](names["noise"], 1.0).shape == SHAPE
    assert names["bits"].shape == (16,)
    for wrapped in ("of_v", "of_edm", "filled_in"):
        assert deis.sample(tables.ddim(names["sde"], names["ts"]), names[wrapped], names["noise"]).shape == SHAPE


@pytest.mark.parametrize(("solver", "order"), [("angle_ab", 4), ("two_step", 2)])
def test_solvers_of_the_examples_have_their_order(names, solver, order):
    """The first is of degree 3; its warm start is excluded by the exact history."""
    errors, num_steps = [], [40, 80]
    for num_step in num_steps:
        table = names[solver](problem.SHORT["vp_linear"], deis.timesteps(problem.SHORT["vp_linear"], num_step))
        errors.append(problem.error_from_exact_history("vp_linear", table, first=order - 1, corrected=False))
    assert problem.slopes(num_steps, errors)[0] == pytest.approx(order, abs=0.3)


def test_every_method_is_in_the_table_of_names():
    """And nothing else is, but Analytic-DDIM, which needs a statistic."""
    section = (ROOT / "docs/solvers.md").read_text().split("## All names")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [*tables.METHODS, "analytic_ddim"]


def test_every_tableau_and_phase_is_named():
    text = (ROOT / "docs/solvers.md").read_text()
    for name in (
        *tables.TABLEAUS,
        *(f'`"{phase}"`' for phase in (*deis.schedule.PHASES, *deis.schedule.INTEGER_PHASES)),
    ):
        assert name in text
