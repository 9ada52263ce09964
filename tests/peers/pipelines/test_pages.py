"""The examples of docs/pipelines.md run, on tiny networks."""

import re
from pathlib import Path
from typing import Any

import pytest

import deis

torch = pytest.importorskip("torch", reason="runs diffusers' pipelines; make test-peers installs them")
diffusers = pytest.importorskip("diffusers", reason="runs diffusers' pipelines; make test-peers installs them")

import tiny  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs" / "pipelines.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # diffusers' own
def test_the_page_on_pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **options: compile_(run, backend="eager", **options))
    sde = deis.discrete_vp()
    deis.tables.rho_ab(sde, deis.timesteps(sde, 5)).save("five_calls.safetensors")
    names: dict[str, Any] = {
        "torch": torch,
        "pipe": tiny.ddpm(diffusers.DDPMScheduler()).pipe,
        "model": lambda x, sigma: x / (1 + sigma[:, None] ** 2),
        "eps_fn": lambda x, t: x.tanh(),
        "noise": torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
    }
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["images"][0].size == (8, 8)
    assert names["x"].shape == names["x_0"].shape == names["noise"].shape
    assert torch.isfinite(names["x"]).all()
