"""The user's own images: folders and .npz files, good and bad."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from data import Split, class_names, folders, load, load_splits
from data.config import DatasetConfig


def write_images(
    folder: Path, count: int, size: tuple[int, int] = (12, 12), mode: str = "RGB", ext: str = "png"
) -> None:
    """Write `count` images of random pixels; `size` is (width, height)."""
    folder.mkdir(parents=True, exist_ok=True)
    shape = (count, size[1], size[0]) + ((3,) if mode == "RGB" else ())
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, shape, np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i:03d}.{ext}")


def both(path: Path, **options: object) -> tuple[Split, Split]:
    cfg = DatasetConfig(name="images", path=str(path), **options)  # type: ignore[arg-type]
    return load(cfg, "train"), load(cfg, "test")


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_a_folder_is_read_in_full_and_split_once_and_for_all(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "deeper", 20)
    train, test = both(tmp_path, test_fraction=0.25)
    assert train.images.shape == (15, 12, 12, 3)
    assert test.images.shape == (5, 12, 12, 3)
    assert train.images.dtype == np.uint8
    assert train.labels is None
    assert train.num_classes == 0
    on_disk = {np.asarray(Image.open(file)).tobytes() for file in tmp_path.rglob("*.png")}
    assert rows(train.images) | rows(test.images) == on_disk
    np.testing.assert_array_equal(train.images, both(tmp_path, test_fraction=0.25)[0].images)


def test_files_are_read_once_for_several_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, 4)
    expected, read = both(tmp_path), Mock(side_effect=folders.read_picture)
    monkeypatch.setattr(folders, "read_picture", read)
    for one, other in zip(load_splits(DatasetConfig(path=str(tmp_path)), "train", "test"), expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
    assert read.call_count == 4


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    for label, grey in (("dark", 10), ("light", 200), ("middle", 90)):
        (tmp_path / label).mkdir()
        for i in range(6):
            Image.new("L", (4, 4), grey).save(tmp_path / label / f"{i}.png")
    assert class_names(DatasetConfig(path=str(tmp_path))) == ["dark", "light", "middle"]
    for split in both(tmp_path, test_fraction=0.5):
        assert split.num_classes == 3
        assert split.labels is not None
        assert split.labels.dtype == np.int32
        assert split.images.shape == (9, 4, 4, 1)
        np.testing.assert_array_equal(np.array([10, 200, 90])[split.labels], split.images[:, 0, 0, 0])


def test_one_folder_or_loose_images_are_unlabelled(tmp_path: Path) -> None:
    write_images(tmp_path / "only", 4)
    assert both(tmp_path)[0].labels is None
    write_images(tmp_path / "second", 4)
    assert both(tmp_path)[0].num_classes == 2
    write_images(tmp_path, 4)
    assert both(tmp_path)[0].labels is None
    assert class_names(DatasetConfig(path=str(tmp_path))) == []


def test_one_coloured_file_makes_all_rgb_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    write_images(tmp_path / "grey", 9, mode="L")
    (tmp_path / "grey" / "._000.png").write_bytes(b"not an image")
    assert both(tmp_path)[0].images.shape == (8, 12, 12, 1)
    Image.new("RGB", (12, 12), (255, 0, 0)).save(tmp_path / "red.png")
    train, test = both(tmp_path)
    assert train.images.shape == (9, 12, 12, 3)
    assert test.images.shape[-1] == 3


def test_jpegs_are_cropped_and_resized(tmp_path: Path) -> None:
    write_images(tmp_path, 5, size=(40, 30), ext="JPG")
    assert both(tmp_path, image_size=16)[0].images.shape == (4, 16, 16, 3)
    train, _ = both(tmp_path, center_crop=20)
    files = sorted(tmp_path.iterdir())
    assert rows(train.images) < {np.asarray(Image.open(file))[5:25, 10:30].tobytes() for file in files}


def test_resizing_averages_what_it_shrinks(tmp_path: Path) -> None:
    """A fine chequerboard becomes even grey; picking single pixels would give black, white or stripes."""
    board = np.indices((64, 64)).sum(0) % 2 * np.uint8(255)
    np.savez(tmp_path / "board.npz", images=np.stack([board, board]).astype(np.uint8))
    small = both(tmp_path / "board.npz", image_size=8)[0].images
    assert np.abs(small.astype(int) - 127.5).max() < 3


def test_orientation_tag_is_obeyed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to show"
    picture = Image.new("L", (8, 8), 0)
    picture.paste(255, (0, 0, 8, 4))  # upper half white
    for i in range(2):
        picture.save(tmp_path / f"{i}.png", exif=exif)
    upright = both(tmp_path)[0].images[0, :, :, 0]
    assert upright[:, 4:].min() == 255
    assert upright[:, :4].max() == 0


def test_npz_with_and_without_labels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), np.uint8)
    labels = np.arange(30) % 3
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    train, test = both(tmp_path / "x.npz")
    assert (len(train.images), len(test.images), train.num_classes, test.num_classes) == (27, 3, 3, 3)
    of_image = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in (train, test):
        assert split.labels is not None
        assert [of_image[image.tobytes()] for image in split.images] == split.labels.tolist()
    np.savez(tmp_path / "grey.npz", images=images[..., 0])
    assert both(tmp_path / "grey.npz")[0].images.shape == (27, 6, 6, 1)
    assert both(tmp_path / "grey.npz")[0].labels is None


@pytest.mark.parametrize(
    ("pixel", "background", "seen"),
    [
        ([200, 0, 100, 51], "#0064ff", [40, 80, 224]),  # a fifth of it, four fifths of the background
        ([100, 51], "white", [224]),
        ([100, 255], "red", [100, 100, 100]),
    ],
)
def test_npz_with_transparency(pixel: list[int], background: str, seen: list[int], tmp_path: Path) -> None:
    """Composed on a colour by the rule of image files, whose test has the same values."""
    np.savez(tmp_path / "x.npz", images=np.full((3, 4, 4, len(pixel)), pixel, np.uint8))
    images = load(DatasetConfig(name="images", path=str(tmp_path / "x.npz"), background=background), "all").images
    np.testing.assert_array_equal(images, np.broadcast_to(np.array(seen, np.uint8), (3, 4, 4, len(seen))))


def test_npz_with_the_names_of_guided_diffusion(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), np.uint8)
    np.savez(tmp_path / "x.npz", images, np.arange(30) % 3)
    split = load(DatasetConfig(name="images", path=str(tmp_path / "x.npz")), "all")
    np.testing.assert_array_equal(split.images, images)
    assert split.labels is not None
    np.testing.assert_array_equal(split.labels, np.arange(30) % 3)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"dataset.path=.*nowhere does not exist"):
        both(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(FileNotFoundError, match=r"no image files in a format that Pillow reads; 1 .txt"):
        both(tmp_path)
    with pytest.raises(ValueError, match=r"neither a folder or .zip archive of images nor an .npz"):
        both(tmp_path / "notes.txt")
    write_images(tmp_path, 1)
    with pytest.raises(ValueError, match="at least 2"):
        both(tmp_path)
    write_images(tmp_path, 4)
    (tmp_path / "zzz.png").write_bytes((tmp_path / "000.png").read_bytes()[:200])
    with pytest.raises(
        ValueError, match=r"zzz.png cannot be read as an image \(.*\); dataset.skip_damaged=true leaves such"
    ):
        both(tmp_path)


def test_mixed_sizes_name_two_files_and_the_way_out(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 8, (12, 12))
    write_images(tmp_path / "b", 8, (20, 16))
    with pytest.raises(ValueError, match=r"a/0\d\d.png is 12x12 and .*b/0\d\d.png is 20x16; .*dataset.image_size=64"):
        both(tmp_path)
    assert both(tmp_path, image_size=10)[0].images.shape[1:] == (10, 10, 3)


def test_images_of_unusable_shape_or_depth(tmp_path: Path) -> None:
    write_images(tmp_path / "wide", 4, (20, 10))
    with pytest.raises(ValueError, match=r"20x10, not square; .*dataset.image_size=10"):
        both(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"wide/000.png: dataset.center_crop=11 is larger than an image of 20x10"):
        both(tmp_path / "wide", center_crop=11)
    (tmp_path / "deep").mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep" / f"{i}.png")
    with pytest.raises(ValueError, match="8 bits per channel"):
        both(tmp_path / "deep")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((4, 8, 8), np.uint8)}, "no array `images` or `arr_0`; it has: pictures"),
        ({"images": np.zeros((4, 8, 8), np.float32)}, "must be uint8 from 0 to 255, but they are float32 from 0 to 0"),
        ({"images": np.zeros((4, 3, 8, 8), np.uint8)}, r"with c 1 \(grey\), 3 .*; they are \[4, 3, 8, 8\]"),
        ({"images": np.zeros((1, 8, 8), np.uint8)}, "at least 2"),
        ({"images": np.zeros((0, 8, 8, 4), np.uint8)}, r"they are \[0, 8, 8, 4\]"),
        ({"images": np.zeros((4, 0, 0), np.uint8)}, r"they are \[4, 0, 0\]"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "4 integers from 0 to"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "labels": np.array([0, 1, -1, 0])}, "4 integers from 0 to"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 2**32])}, "2 integers from 0 to"),
        ({"images": np.array([{}, {}], object)}, "is damaged, or not an .npz file of plain arrays"),
    ],
)
def test_wrong_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        both(tmp_path / "x.npz")


def test_damaged_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"x.npz is damaged"):
        both(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "dataset.path is not set"),
        ({"path": ""}, "dataset.path is not set"),
        ({"path": "x", "tfds_name": "mnist"}, "dataset.path belongs to dataset=images"),
        ({"test_fraction": 0.2, "tfds_name": "mnist"}, "dataset.test_fraction belongs to dataset=images"),
        (
            {"path": "x", "train_split": "train[:9]"},
            "dataset.train_split belongs to a named data set, not to dataset=i",
        ),
        ({"path": "x", "test_fraction": 1.0}, "dataset.test_fraction=1.0 must lie between 0 and 1"),
        ({"path": "x", "image_size": 0}, "dataset.image_size=0 must be at least 1"),
        ({"path": "x", "center_crop": -1}, "dataset.center_crop=-1 must be at least 1"),
        ({"path": "x", "background": "whit"}, "dataset.background=whit must be a colour"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(DatasetConfig(name="images", **options), "train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='"train", "test", "all"'):
        load(DatasetConfig(name="images", path="x"), "validation")
