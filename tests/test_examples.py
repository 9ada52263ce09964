"""The scripts of examples/ draw what they say."""

import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import published_network
import pytest
from PIL import Image, ImageSequence

from eval.figures import samples_picture
from examples import (
    continuous_vp,
    ddim_fashion_mnist,
    discrete_vp,
    inpainting,
    interpolation,
    pndm_mnist,
    run,
    same_noise,
)
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


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        *(
            (script, ["gone"], "no checkpoint in gone/checkpoints")
            for script in (continuous_vp, pndm_mnist, same_noise)
        ),
        *((script, ["gone"], "no checkpoint in gone/checkpoints") for script in (inpainting, interpolation)),
        (discrete_vp, [], "missing a required argument: 'checkpoint'"),
        (same_noise, ["a", "b", "c"], "too many positional arguments"),
        (discrete_vp, [str(SHIPPED)], 'is ts_phase "t" with ts_order 2'),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    script: ModuleType, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(script.main, *words)
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith("error: ")
    assert said in error


def test_a_script_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    run(same_noise.main, "--help")
    assert "python -m examples.same_noise RUN_FOLDER" in capsys.readouterr().out


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


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], np.ndarray]:
    """The images of a sheet by (row, column), as signed numbers, once a script has drawn it."""
    kept: dict[tuple[str, str], np.ndarray] = {}

    def keep(path: Path, drawn: dict[tuple[str, str], np.ndarray]) -> None:
        kept.update({key: images.astype(int) for key, images in drawn.items()})
        samples_picture(path, drawn)

    for script in (same_noise, inpainting, interpolation):
        monkeypatch.setattr(script, "samples_picture", keep)
    return kept


@pytest.fixture
def network(tmp_path: Path) -> str:
    return str(published_network.write(tmp_path / "network", "model.num_classes=10", "model.output=v"))


def test_the_same_noise_through_solvers(
    network: str, tmp_path: Path, cells: dict[tuple[str, str], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """tAB of order 0 is DDIM: equal images, and other ones in other numbers of calls."""
    monkeypatch.setattr(same_noise, "METHODS", ("ddim", "tab0"))
    monkeypatch.setattr(same_noise, "CALLS", (2, 3))
    same_noise.main(network, str(tmp_path / "sheet.png"))
    assert list(cells) == [(solver, calls) for solver in ("DDIM", "tAB0") for calls in ("2 calls", "3 calls")]
    np.testing.assert_allclose(cells["DDIM", "3 calls"], cells["tAB0", "3 calls"], atol=1)
    assert np.mean(cells["DDIM", "2 calls"] != cells["DDIM", "3 calls"]) > 0.5
    assert Image.open(tmp_path / "sheet.png").height == 31 + 2 * 68  # a line of text, and rows 68 pixels apart


def test_inpainting_keeps_what_is_known(network: str, tmp_path: Path, cells: dict[tuple[str, str], np.ndarray]) -> None:
    inpainting.main(network, str(tmp_path / "sheet.png"))
    by_row = {row: np.stack([x[0] for (name, _), x in cells.items() if name == row]) for row, _ in cells}
    assert list(by_row) == ["image", "known", "noise 0", "noise 1", "noise 2"]
    assert by_row["image"].shape == (10, 8, 8, 1)
    for row in ("known", "noise 0", "noise 1", "noise 2"):
        np.testing.assert_array_equal(by_row[row][:, :4], by_row["image"][:, :4])
        assert np.mean(by_row[row][:, 4:] != by_row["image"][:, 4:]) > 0.5
    assert np.mean(by_row["noise 0"][:, 4:] != by_row["noise 1"][:, 4:]) > 0.5


def test_interpolation_goes_from_image_to_image(
    network: str, tmp_path: Path, cells: dict[tuple[str, str], np.ndarray]
) -> None:
    interpolation.main(network, str(tmp_path / "sheet.png"))
    assert list(dict.fromkeys(row for row, _ in cells)) == [f"class {label}" for label in (5, 6, 7, 8, 9)]
    for row, _ in cells:
        path = [x for (name, _), x in cells.items() if name == row]
        assert len(path) == 2 + 9
        np.testing.assert_allclose(path[1], path[0], atol=3)  # encoded and decoded
        np.testing.assert_allclose(path[-2], path[-1], atol=3)
        assert all(np.any(one != two) for one, two in itertools.pairwise(path[1:-1]))


def test_slerp_goes_by_equal_angles() -> None:
    a, b = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 2.0], [0.0, -1.0]])
    b[1] = [np.sqrt(0.75), -0.5]  # 120 degrees from a[1]
    np.testing.assert_allclose(interpolation.slerp(a, b, 0.5)[0], [np.sqrt(2), np.sqrt(2)], rtol=1e-6)
    np.testing.assert_allclose(interpolation.slerp(a, b, 0.25)[1], [0.5, np.sqrt(0.75)], rtol=1e-6)
