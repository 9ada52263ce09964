"""python -m eval.fid as a user types it, and the samples on disk that it takes."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, run, run_here
from PIL import Image

from eval.features.classifier import read_classifier
from eval.figures import GAP
from eval.metrics.frechet import feature_statistics, frechet_distance, load_statistics, save_statistics
from eval.metrics.samples import open_samples


def pictures(n: int, seed: int, shape: tuple[int, ...] = (6, 6, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, and samples in every form."""
    path = tmp_path_factory.mktemp("fid")
    np.savez(path / "data.npz", images=pictures(400, 0))
    samples = pictures(200, 1)
    np.savez_compressed(path / "samples.npz", images=samples, rounding=np.array("floor"))
    (path / "png" / "deep").mkdir(parents=True)
    for i, image in enumerate(samples):
        Image.fromarray(image).save(path / "png" / ("deep" if i > 150 else ".") / f"{i:05d}.png")
    return path


def fid(folder: Path, *words: str):
    return run_here("eval.fid", *words, "dataset=images", "dataset.path=data.npz", "extractor=pixels", cwd=folder)


def test_a_folder_and_a_file_of_the_same_samples_give_the_same_numbers(folder: Path) -> None:
    metrics = ["metrics=[fid,kid,pr]", "kid_subset_size=150"]
    for name, source in (("a", "samples.npz"), ("b", "png")):
        done = fid(folder, "calc", source, *metrics, f"dest={name}.json")
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == [
            "FD-pixels-200",
            "KD-pixels-200",
            "PR-pixels-200",
        ]
    a, b = (json.loads((folder / f"{name}.json").read_text()) for name in "ab")
    assert (a.pop("rounding"), b.pop("rounding")) == ("floor", None)
    assert (a.pop("samples"), b.pop("samples")) == ("samples.npz", "png")
    assert a == b
    assert a["num_samples"] == 200
    assert a["reference"].startswith("images-train@")


def test_samples_are_shown_beside_their_nearest_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of the data set is nearest to itself; more than a batch of them are shown as well."""
    monkeypatch.setattr("eval.metrics.samples.BATCH", 2)
    done = fid(folder, "nearest", "data.npz", "split=all", "num_samples=3", "neighbours=2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "nearest.png: 3 samples, each beside its 2 nearest of 400 images of images-all in pixel values; the nearest is"
    )
    refused = run_here("eval.fid", "nearest", "data.npz", "dataset=images", "dataset.path=data.npz", cwd=folder)
    assert refused.returncode == 2
    assert refused.stderr.endswith("can be trained on it; use extractor=efficientnet_lite0 or give labels\n")
    picture = np.asarray(Image.open(folder / "nearest.png")).astype(int)
    tile = (picture.shape[1] - GAP) // 3
    sample, first, second = (picture[:, i * tile : (i + 1) * tile] for i in range(3))
    assert picture.shape == (3 * tile + GAP, 3 * tile + GAP, 3)
    np.testing.assert_array_equal(sample, first)
    assert np.abs(sample - second).max() > 50


def test_parts_that_were_measured_otherwise_are_refused(folder: Path) -> None:
    """As many features say nothing: another classifier has as many."""
    (folder / "part").mkdir()
    extractor = "pixels@of another shape"
    save_statistics(folder / "part" / "statistics.npz", feature_statistics([np.eye(108)], extractor, "samples"))
    (folder / "part" / "origin.json").write_text("{}")
    (folder / "part" / "result.json").write_text(json.dumps({"seeds": "0-107"}))
    done = fid(folder, "merge", "part")
    assert done.returncode == 2
    assert (
        f"error: part was measured with extractor {extractor}, but the images of images-train with pix" in done.stderr
    )


def test_a_reference_is_written_and_measured_against(folder: Path) -> None:
    data = ["dataset=images", "dataset.path=data.npz", "extractor=pixels"]
    # threads that wait for each other are slow where other tests keep the cores busy
    made = run("eval.fid", "ref", "dest=ref.npz", *data, cwd=folder, env={"OPENBLAS_NUM_THREADS": "1"})
    assert made.returncode == 0, made.stderr
    assert "360 images of images-train@" in made.stdout
    with np.load(folder / "ref.npz") as file:
        np.savez(folder / "foreign.npz", mu=file["mu"], sigma=file["sigma"])
        np.savez(folder / "other.npz", mu=np.zeros(7), sigma=np.eye(7))
    said = []
    for words in ([], ["reference=ref.npz"], ["reference=foreign.npz", "dest=foreign.json"]):
        done = fid(folder, "calc", "samples.npz", *words)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] == said[2]
    record = json.loads((folder / "foreign.json").read_text())
    assert (record["reference"], record["reference_extractor"]) == ("foreign.npz", "unknown")
    refused = fid(folder, "calc", "samples.npz", "reference=other.npz")
    assert refused.returncode == 2
    assert "has 7 features" in refused.stderr


def test_all_images_of_ones_own_against_themselves_are_at_distance_zero(folder: Path) -> None:
    """Also where there are too few of them for a covariance of full rank; the number's name says the split."""
    np.savez(folder / "few.npz", images=pictures(60, 2))
    for source in ("data.npz", "few.npz"):
        words = ["calc", source, "dataset=images", f"dataset.path={source}", "extractor=pixels", "dest=self.json"]
        done = run_here("eval.fid", *words, "split=all", "metrics=[fid,kid]", "kid_subset_size=50", cwd=folder)
        assert done.returncode == 0, done.stderr
        found = json.loads((folder / "self.json").read_text())
        assert abs(found["fid"]) < 1e-6
        n = len(np.load(folder / source)["images"])
        assert (found["fid_name"], found["kid_name"]) == (f"FD-pixels-{n}-all", f"KD-pixels-{n}-all")
        assert found["reference"].startswith("images-all@")
        assert found["reference_n"] == n
    held_out = fid(folder, "calc", "samples.npz", "split=test")
    assert held_out.stdout.startswith("FD-pixels-200-test ")


def test_what_ships_with_a_network_is_found(tmp_path: Path) -> None:
    """The classifier and the statistics in checkpoints/ need no images, and nothing is trained."""
    samples = pictures(100, 1, (28, 28, 1))
    np.savez(tmp_path / "samples.npz", images=samples)
    data = ["dataset=fashion_mnist", "dataset.data_dir=nowhere", "dataset.download=false"]
    done = run_here("eval.fid", "calc", "samples.npz", *data, "dest=found.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["fid_name"], found["reference_n"]) == ("FID-fashion_mnist-classifier3-100", 60_000)
    folder = ROOT / "checkpoints" / "fashion_mnist"
    extractor = read_classifier(folder / "classifier.npz")
    mine = feature_statistics([extractor.features(samples)], extractor.name, "samples")
    assert found["fid"] == pytest.approx(frechet_distance(mine, load_statistics(folder / "statistics.npz")), rel=1e-9)
    assert not (tmp_path / "outputs").exists()
    others = run_here("eval.fid", "calc", "samples.npz", *data, "dataset.image_size=14", cwd=tmp_path)
    assert others.returncode == 2, "images of another size are another data set, which is not here"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["calc"], "say what to do first"),
        (["clac", "samples.npz"], "say what to do first"),
        (["calc", "nowhere"], "nowhere does not exist"),
        (["calc", "samples.npz", "metrics=[fid,kid]"], "metrics=kid needs at least 1000 samples, got 200"),
        (["calc", "samples.npz", "num_samples=300"], "samples.npz holds 200 image(s), but 300 are needed"),
        (
            ["calc", "samples.npz", "dataset.image_size=4"],
            "samples are uint8 [6, 6, 3], but the images of images-train",
        ),
        (["calc", "samples.npz", "split=both"], "split must be train, test or all, got 'both'"),
        (["calc", "samples.npz", "dest=."], "dest=. must be the name of a file"),
        (
            ["calc", "samples.npz", "metrics=[classes]"],
            "metrics=classes needs the class that each sample was asked for",
        ),
        (["nearest", "samples.npz", "neighbours=0"], "neighbours must be at least 1, got 0"),
        (["nearest", "samples.npz", "dest=a.jpg"], "dest=a.jpg is a picture, whose name must end in .png"),
        (["ref", "reference=ref.npz"], "give it to: python -m eval.fid calc SAMPLES"),
    ],
)
def test_refusals_are_one_sentence(words: list[str], said: str, folder: Path) -> None:
    def files() -> set[Path]:
        return {path for path in folder.rglob("*") if path.is_file() and "extractors" not in path.parts}

    before = files()
    done = fid(folder, *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert files() == before


def test_the_data_set_of_a_run_is_that_of_sample_py(tmp_path: Path) -> None:
    """The one that it was given, else that of the network; what nobody knows has to be said."""
    np.savez(tmp_path / "samples.npz", images=pictures(60, 1, (8, 8, 1)))
    (tmp_path / "result.json").write_text(json.dumps({"checkpoint": "gone", "step": None}))
    (tmp_path / "config.yaml").write_text("dataset: {name: ''}")
    refused = run_here("eval.fid", "calc", "samples.npz", "extractor=pixels", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "error: give dataset=NAME: the network of ., gone, is not there to tell it\n"
    (tmp_path / "config.yaml").write_text("dataset: {name: digits, tfds_name: null, path: samples.npz}")
    measured = run_here("eval.fid", "calc", ".", "extractor=pixels", "split=all", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert float(measured.stdout.split()[1]) == pytest.approx(0, abs=1e-6)


def test_a_damaged_cache_is_noticed(folder: Path) -> None:
    assert fid(folder, "ref", "extractor.cache_dir=cache").returncode == 0
    [path] = (folder / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = fid(folder, "calc", "samples.npz", "extractor.cache_dir=cache")
    assert done.returncode == 2
    assert "delete it" in done.stderr


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.full((5, 4, 4, 1), np.nan, np.float32)}, "5 of its 5 float32 images hold NaN"),
        ({"images": np.linspace(-1, 1, 80, dtype=np.float32).reshape(5, 4, 4, 1)}, r"to_uint8\(images"),
        ({"images": np.linspace(0, 255, 80, dtype=np.float32).reshape(5, 4, 4, 1)}, "from 0 to 255; write uint8"),
        ({"images": np.full((5, 4, 4, 1), 300)}, "they are int64 from 300 to 300"),
        ({"images": np.zeros((5, 4), np.uint8)}, r"must be \[n, h, w, c\] .* they are \[5, 4\]"),
        ({"images": np.zeros((5, 3, 8, 8), np.uint8)}, r"c 1 .*\[5, 3, 8, 8\]"),
        ({"images": np.zeros((1, 4, 4, 3), np.uint8)}, r"holds 1 image\(s\), but at least 2"),
        ({"pictures": np.zeros((5, 4, 4, 3), np.uint8)}, "no array `images` or `arr_0`; it has: pictures"),
        ({"images": np.array(["a", None], dtype=object)}, "not an .npz file of plain arrays"),
    ],
)
def test_files_without_samples_are_refused(arrays: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=said):
        open_samples(tmp_path / "samples.npz")


def test_a_damaged_compressed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez_compressed(path, images=pictures(50, 0))
    whole = path.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2], b"", whole[:2000] + bytes(64) + whole[2064:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or not an"):
            open_samples(path)


def test_folders_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no image files"):
        open_samples(tmp_path)
    (tmp_path / "result.json").write_text("{}")
    Image.fromarray(pictures(1, 0)[0]).save(tmp_path / "grid.png")
    with pytest.raises(FileNotFoundError, match="keep_samples=true"):
        open_samples(tmp_path)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (
            Image.fromarray(pictures(1, 0, (5, 6, 3))[0]),
            r"differ in size: .*0\.png is 6x6, .*1\.png is 6x5",
        ),
        (Image.fromarray(np.zeros((6, 6), np.uint16)), "Pillow mode is I;16"),
        (None, "cannot be read as an image"),
    ],
)
def test_image_files_that_do_not_fit_are_named(second: Image.Image | None, said: str, tmp_path: Path) -> None:
    Image.fromarray(pictures(1, 0)[0]).save(tmp_path / "0.png")
    if second is None:
        (tmp_path / "1.png").write_bytes(b"no picture")
    else:
        second.save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=said):
        list(open_samples(tmp_path).batches())


def test_the_first_samples_are_taken_and_grey_has_one_channel(tmp_path: Path) -> None:
    images = pictures(1100, 3, (3, 3))
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i:04d}.png")
    batches = list(open_samples(tmp_path, 700).batches())
    assert [len(batch) for batch in batches] == [512, 188]
    np.testing.assert_array_equal(np.concatenate(batches)[..., 0], images[:700])


def test_samples_are_read_as_a_data_set_is(tmp_path: Path) -> None:
    """Grey beside colour, transparency, further formats, hidden files, a .zip, guided-diffusion's name."""
    Image.new("L", (4, 4), 7).save(tmp_path / "a.gif")
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(tmp_path / "b.png")
    Image.new("RGB", (4, 4), (4, 5, 6)).save(tmp_path / "c.webp", lossless=True)
    (tmp_path / "._d.png").write_bytes(b"resource fork")
    (tmp_path / "notes.txt").touch()
    expected = np.full((3, 4, 4, 3), [[[[7, 7, 7]]], [[[255, 0, 0]]], [[[4, 5, 6]]]], np.uint8)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for file in sorted(tmp_path.iterdir()):
            archive.write(file, file.name)
    np.savez(tmp_path / "x.npz", expected, mu=np.zeros(3))
    for path in (tmp_path, tmp_path / "x.zip", tmp_path / "x.npz"):
        np.testing.assert_array_equal(next(open_samples(path, background="red").batches()), expected)


def test_damaged_samples_are_left_out_on_request(tmp_path: Path) -> None:
    for name in "abcd":
        Image.new("L", (4, 4), 7).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image \(.*skip_damaged"):
        list(open_samples(tmp_path).batches())
    samples = open_samples(tmp_path, skip_damaged=True)
    assert samples.n == 3
    assert [batch.shape for batch in samples.batches()] == [(3, 4, 4, 1)]
