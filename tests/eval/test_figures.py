"""Pictures: where the pixels go, what an animation holds, what a plot says."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from eval.figures import (
    GAP,
    denoising_gif,
    fid_vs_nfe_plot,
    held_out_plot,
    image_grid,
    loss_curve_plot,
    precision_recall_plot,
    save_class_grid,
    save_png,
)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved during a test, so that their content can be read."""
    figures, save = [], Figure.savefig

    def remember(figure, *args, **kwargs):
        figures.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


@pytest.mark.parametrize(
    ("n", "columns", "shape", "scale"),
    [(5, None, (4, 8, 1), 7), (6, 2, (10, 20, 3), 3), (1, None, (70, 40, 1), 1), (3, 9, (28, 20, 3), 2)],
)
def test_grid_holds_every_image_in_reading_order(n, columns, shape, scale):
    images = np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
    grid = image_grid(images, columns)
    columns, (h, w, c) = min(columns or 3, n), shape
    rows = -(-n // columns)
    height, width = h * scale + GAP, w * scale + GAP
    assert grid.shape == (rows * height + GAP, columns * width + GAP, c)
    for i in range(rows * columns):
        tile = grid[i // columns * height + GAP :, i % columns * width + GAP :][: h * scale, : w * scale]
        if i < n:
            reduced = tile.reshape(h, scale, w, scale, c).mean((1, 3))
            correlation = [np.corrcoef(reduced.ravel(), other.ravel())[0, 1] for other in images]
            assert np.argmax(correlation) == i
            assert correlation[i] > 0.9
            if scale == 1:
                np.testing.assert_array_equal(tile, images[i])
        else:
            assert (tile == 255).all()


@pytest.mark.parametrize(
    ("labels", "count", "shown"),
    [
        (None, 5, [0, 1, 2, 3, 4]),
        ([7] * 8, 9, range(8)),
        ([2, 0, 2, 0, 0, 2, 0, 0], 5, [1, 3, 0, 2]),
        (range(8), 3, [0, 1, 2]),
    ],
)
def test_grid_has_a_row_for_each_class_and_says_how_many_it_shows(tmp_path, labels, count, shown):
    images = np.random.default_rng(3).integers(0, 256, (8, 64, 64, 1), np.uint8)
    assert save_class_grid(tmp_path / "a.png", images, None if labels is None else np.array(labels), count) == len(
        shown
    )
    columns = 2 if labels and labels[0] == 2 else None
    save_png(tmp_path / "b.png", image_grid(images[list(shown)], columns))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_default_grid_is_large_enough_to_see():
    assert image_grid(np.zeros((64, 8, 8, 1), np.uint8)).shape[0] > 400
    assert image_grid(np.zeros((4, 64, 64, 3), np.uint8)).shape == (2 * 66 + 2, 2 * 66 + 2, 3)


@pytest.mark.parametrize(
    "images", [np.zeros((0, 8, 8, 1), np.uint8), np.zeros((2, 8, 8, 1)), np.zeros((8, 8), np.uint8)]
)
def test_grid_refuses_what_is_no_image_array(images):
    with pytest.raises(ValueError, match="uint8 images"):
        image_grid(images)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_lossless(tmp_path, channels):
    array = np.random.default_rng(1).integers(0, 256, (12, 9, channels), np.uint8)
    save_png(tmp_path / "a.png", array)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")).reshape(array.shape), array)


def frames_of(path):
    with Image.open(path) as gif:
        return [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]


def test_animation_shows_state_and_prediction_and_holds_the_result(tmp_path):
    x_t = np.linspace(-1, 1, 4, dtype=np.float32)[:, None, None, None, None] * np.ones((1, 4, 8, 8, 1), np.float32)
    x_0 = np.array([0, 128, 255], np.uint8)[:, None, None, None, None] * np.ones((1, 4, 8, 8, 1), np.uint8)
    denoising_gif(tmp_path / "a.gif", x_t, x_0)
    frames = frames_of(tmp_path / "a.gif")
    assert [duration for _, duration in frames] == [250, 250, 250, 2500]
    for i, (frame, _) in enumerate(frames):
        height, width = frame.shape[:2]
        left, right = frame[height // 4, width // 8], frame[height // 4, width - width // 8]
        state = 85 * i
        prediction = [0, 128, 255, state][i]  # the result, state 3, stands on both sides
        np.testing.assert_allclose(left, state, atol=2)
        np.testing.assert_allclose(right, prediction, atol=2)


def test_exploding_noise_is_scaled_into_view(tmp_path):
    noise = np.random.default_rng(2).normal(size=(1, 4, 8, 8, 1)) * 80
    denoising_gif(tmp_path / "a.gif", noise, np.zeros_like(noise))
    left = frames_of(tmp_path / "a.gif")[0][0][40:120, 10:100]
    assert ((left > 10) & (left < 245)).mean() > 0.2


def test_animation_refuses_numbers_that_do_not_fit(tmp_path):
    x = np.zeros((3, 1, 8, 8, 1), np.uint8)
    with pytest.raises(ValueError, match="3 states with 1 predictions"):
        denoising_gif(tmp_path / "a.gif", x, x[:1])


ROWS = [
    {"sampler": "DDIM", "method": "ddim", "nfe": 10, "nfe_asked": 10, "fid": 11.14, "fid_name": "FID-digits-1.8k"},
    {"sampler": "DDIM", "method": "ddim", "nfe": 5, "nfe_asked": 5, "fid": 26.91},
    {"sampler": "tAB1", "method": "t_ab", "nfe": 5, "nfe_asked": 5, "fid": 19.72},
    {"sampler": "tAB3", "method": "t_ab", "nfe": 5, "nfe_asked": 5, "fid": 15.37},
    {"sampler": "rho2Heun", "method": "rho_rk", "nfe": 6, "nfe_asked": 5, "fid": 108.0},
    {"sampler": "tAB2", "method": "t_ab", "nfe": 5, "nfe_asked": 5, "fid": None},
]


def test_fid_plot_draws_every_measured_run_at_the_nfe_it_used(tmp_path, drawn):
    fid_vs_nfe_plot(tmp_path / "a.png", ROWS)
    (axes,) = drawn[0].axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["DDIM", "tAB1", "tAB3", "rho2Heun"]
    np.testing.assert_array_equal(lines["DDIM"].get_xydata(), [(5, 26.91), (10, 11.14)])
    np.testing.assert_array_equal(lines["rho2Heun"].get_xydata(), [(6, 108.0)])
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "FID-digits-1.8k")
    assert list(axes.get_xticks()) == [5, 10]
    looks = {(str(line.get_color()), line.get_marker(), line.get_linestyle()) for line in lines.values()}
    assert len(looks) == 4
    assert lines["DDIM"].get_linestyle() != lines["tAB3"].get_linestyle()
    assert min(Image.open(tmp_path / "a.png").size) > 500


def test_one_number_of_calls_is_drawn_as_bars(tmp_path, drawn):
    fid_vs_nfe_plot(tmp_path / "a.png", ROWS[1:])
    (axes,) = drawn[0].axes
    assert [bar.get_width() for bar in axes.patches] == [26.91, 19.72, 15.37, 108.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["DDIM", "tAB1", "tAB3", "rho2Heun"]
    assert axes.get_xlabel() == "FID, 5 network evaluations"


def test_without_data_there_is_no_plot(tmp_path):
    fid_vs_nfe_plot(tmp_path / "a.png", ROWS[-1:])
    assert not list(tmp_path.iterdir())
    loss_curve_plot(tmp_path / "a.png", [{"step": 1, "eval_loss": 0.5}, {"step": 2, "loss": np.nan}])
    held_out_plot(tmp_path / "a.png", {"1": [{"step": 1, "eval_loss": np.inf}]})
    assert not list(tmp_path.iterdir())


def test_loss_plot_smooths_the_training_loss_without_shifting_it(tmp_path, drawn):
    records = [{"step": step, "loss": 2.0 + 0.01 * step} for step in range(1, 101)]
    records += [{"step": 50, "eval_loss": 2.7, "images_per_s": 9.0}, {"step": 100, "eval_loss": 3.2}]
    records += [{"step": 101, "loss": np.nan}, {"step": 102, "loss": np.inf, "eval_loss": np.inf}]
    loss_curve_plot(tmp_path / "a.png", records)
    raw, smooth, held_out = drawn[0].axes[0].get_lines()
    assert len(raw.get_xdata()) == 100
    np.testing.assert_allclose(smooth.get_ydata(), 2.0 + 0.01 * smooth.get_xdata(), rtol=1e-12)
    np.testing.assert_array_equal(held_out.get_xydata(), [(50, 2.7), (100, 3.2)])


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([("a", 5, 0.2), ("a", 10, 0.3), ("b", 5, 0.4)], {"a": ["5", "10"], "b": ["5"]}),
        ([("a (guidance=1)", 5, 0.2), ("a (guidance=2)", 5, 0.3)], {"a": ["guidance=1", "guidance=2"]}),
        ([("a", 5, None)], {}),
    ],
)
def test_recall_against_precision_along_calls_or_guidance(tmp_path, drawn, rows, lines):
    records = [{"sampler": name, "nfe_asked": nfe, "precision": p, "recall": 1.0} for name, nfe, p in rows]
    precision_recall_plot(tmp_path / "a.png", records)
    assert len(drawn) == bool(lines)
    for figure in drawn:
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("precision", "recall")
        assert {line.get_label(): len(line.get_xdata()) for line in axes.lines} == {k: len(v) for k, v in lines.items()}
        assert [text.get_text() for text in axes.texts] == [text for texts in lines.values() for text in texts]
