"""The scripts of examples/ draw what they say."""

import sys
from pathlib import Path

import published_network
import pytest
from PIL import Image, ImageSequence

from examples import continuous_vp, ddim_fashion_mnist, discrete_vp, pndm_mnist
from models.sampling.source import SHIPPED

pytestmark = pytest.mark.slow


def test_continuous_time_by_the_network_that_comes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    continuous_vp.main(str(SHIPPED), str(tmp_path / "grid.png"))
    assert "64 images, 7 network calls each" in capsys.readouterr().out
    assert Image.open(tmp_path / "grid.png").size == (466, 466)  # 8 tiles of 2 x 28 pixels, and gaps of 2


def test_whole_times_of_a_discrete_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = published_network.write(tmp_path / "network", "sde=discrete_vp")
    discrete_vp.main(str(network), str(tmp_path / "grid.png"))
    assert "tAB3 at the times 800, 632, 483, 355, 246, 158, 88, 39, 9, 0:" in capsys.readouterr().out
    assert (tmp_path / "grid.png").is_file()


def test_discrete_times_need_a_discrete_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a discrete-time SDE"):
        discrete_vp.main(str(published_network.write(tmp_path / "network")), str(tmp_path / "grid.png"))


def test_pndm_in_nine_by_nine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pndm_mnist.main(str(published_network.write(tmp_path / "network")), str(tmp_path))
    assert capsys.readouterr().out.count("20 network calls") == 3
    sizes = {Image.open(tmp_path / f"pndm_mnist_{method}.png").size for method in ("s_pndm", "f_pndm", "ipndm")}
    assert sizes == {(524, 524)}  # 9 tiles of 7 x 8 pixels, and gaps of 2


def test_ddim_is_animated_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gif = tmp_path / "ddim.gif"
    monkeypatch.setattr(sys, "argv", ["ddim", "--steps", "4", "--eta", "0.5", "--num-samples", "64", "--gif", str(gif)])
    ddim_fashion_mnist.main()
    assert len(list(ImageSequence.Iterator(Image.open(gif)))) == 5
    assert "DDIM(eta=0.5), quadratic in t: " in capsys.readouterr().out
