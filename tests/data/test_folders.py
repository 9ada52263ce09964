"""Which files of a folder or archive are images, what they are labelled, and what is said of the others."""

import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import Split, class_names, load
from data.config import DatasetConfig


def write(file: Path, colour: str = "red", mode: str = "RGB") -> None:
    """One image of 4x4 pixels of this colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (4, 4), colour).save(file)


def everything(path: Path, **options: object) -> Split:
    return load(DatasetConfig(name="images", path=str(path), **options), "all")  # type: ignore[arg-type]


def first_pixels(split: Split) -> list[list[int]]:
    return split.images[:, 0, 0].tolist()


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "data")


@pytest.mark.parametrize("path", ["photos", "photos.zip"])
def test_all_are_train_and_test(path: str, tmp_path: Path) -> None:
    for i in range(10):
        write(tmp_path / "photos" / f"{i}.png", f"rgb({i}, 0, 0)")
    zipped(tmp_path / "photos", tmp_path / "photos.zip")
    cfg = DatasetConfig(name="images", path=str(tmp_path / path), test_fraction=0.3)
    train, test, both = (load(cfg, split) for split in ("train", "test", "all"))
    assert (len(train.images), len(test.images)) == (7, 3)
    assert first_pixels(both) == [[i, 0, 0] for i in range(10)]
    assert sorted(first_pixels(train) + first_pixels(test)) == first_pixels(both)


def zipped(folder: Path, archive: Path, below: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{below}{path.relative_to(folder)}")
    return archive


def test_links_to_folders_and_files_are_followed_and_loops_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "photos" / "cats" / "0.png", "red")
    write(tmp_path / "elsewhere" / "dogs" / "0.png", "lime")
    write(tmp_path / "elsewhere" / "deep" / "er" / "0.png", "blue")
    write(tmp_path / "single.png", "white")
    for link, target in {
        "dogs": tmp_path / "elsewhere" / "dogs",
        "birds": tmp_path / "elsewhere" / "deep",
        "cats/1.png": tmp_path / "single.png",
        "cats/gone.png": tmp_path / "nowhere.png",
        "cats/itself": tmp_path / "photos" / "cats" / "itself",
        "cats/up": tmp_path / "photos",
        "cats/above": tmp_path,
        "a_first": tmp_path / "photos" / "cats",
    }.items():
        (tmp_path / "photos" / link).symlink_to(target)
    (tmp_path / "elsewhere" / "dogs" / "back").symlink_to(tmp_path / "elsewhere" / "deep")
    split = everything(tmp_path / "photos")
    assert split.labels is not None
    assert split.labels.tolist() == [0, 1, 1, 2], "birds, cats, cats, dogs"
    assert first_pixels(split) == [[0, 0, 255], [255, 0, 0], [255, 255, 255], [0, 255, 0]]
    everything(tmp_path / "photos")
    assert said(caplog) == (
        f"{tmp_path / 'photos'}: 6 files are left out, 4 linked folder that is read already, 2 broken link"
    ), "once, whatever the number of splits"


def test_every_format_is_read_and_the_rest_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["png", "gif", "ppm", "pgm", "jfif", "jp2", "tga", "qoi", "TIFF", "ico", "avif", "pcx", "sgi"]
    for name in names:
        write(tmp_path / f"x.{name}", "#fe0000")
    for name in ("notes.txt", "more.txt", "plain", "._x.png", ".DS_Store", "x.eps", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"%!PS-Adobe-3.0")
    write(tmp_path / ".thumbnails" / "x.png")
    assert len(everything(tmp_path, image_size=4).images) == len(names)
    assert said(caplog) == (
        f"{tmp_path}: 8 files are left out, 3 hidden, 2 .txt, 1 .db, 1 without an extension, 1 .eps"
    )


def test_a_format_is_known_by_what_is_in_the_file(tmp_path: Path) -> None:
    """Nothing goes to Ghostscript under another name."""
    write(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"b.png cannot be read as an image \(it is in no format that Pillow reads\);"):
        everything(tmp_path)


def test_classes_keep_their_numbers_without_damaged_files(tmp_path: Path) -> None:
    for name in ("a/0.png", "b/0.png", "c/0.png"):
        write(tmp_path / name)
    (tmp_path / "b" / "0.png").write_bytes(b"")
    labels = everything(tmp_path, skip_damaged=True).labels
    assert labels is not None
    assert [class_names(DatasetConfig(path=str(tmp_path)))[label] for label in labels] == ["a", "c"]


def test_damaged_files_are_left_out_on_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(4):
        write(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    (tmp_path / "2.png").write_bytes(b"")
    assert len(everything(tmp_path, skip_damaged=True).images) == 2
    assert f"{tmp_path}: 2 files are left out, 2 that cannot be read (first 1.png)" in said(caplog)
    (tmp_path / "3.png").unlink()
    with pytest.raises(ValueError, match=r"holds 1 image\(s\)"):
        everything(tmp_path, skip_damaged=True)


@pytest.mark.parametrize(
    ("mode", "colour", "background", "expected"),
    [
        ("RGBA", (200, 0, 0, 0), "white", [255, 255, 255]),
        ("RGBA", (200, 0, 0, 255), "white", [200, 0, 0]),
        ("RGBA", (200, 0, 100, 51), "#0064ff", [40, 80, 224]),  # a fifth of it, four fifths of the background
        ("LA", (100, 0), "black", [0]),
        ("LA", (100, 51), "white", [224]),
        ("LA", (100, 51), "red", [224, 20, 20]),
        ("L", 100, "red", [100]),
    ],
)
def test_transparency_is_composed_on_a_colour(
    mode: str, colour: tuple[int, ...], background: str, expected: list[int], tmp_path: Path
) -> None:
    for name in "ab":
        Image.new(mode, (4, 4), colour).save(tmp_path / f"{name}.png")
    assert first_pixels(everything(tmp_path, background=background)) == [expected] * 2


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    for name in ("a.png", "b.gif"):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.putpixel((3, 3), 0)
        image.save(tmp_path / name, transparency=1)
    assert first_pixels(everything(tmp_path, background="blue")) == [[0, 0, 255]] * 2
    assert everything(tmp_path).images[:, 3, 3].tolist() == [[0, 0, 0]] * 2


def write_styled(folder: Path, labels: object) -> Path:
    """A data set as EDM's dataset_tool.py writes it: numbered folders of two images."""
    for i in range(6):
        write(folder / f"{i // 2:05d}" / f"img{i:08d}.png", f"rgb({i}, 0, 0)")
    (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


STYLED = [[f"{i // 2:05d}/img{i:08d}.png", label] for i, label in enumerate((2, 0, 0, 4, 2, 0))]


@pytest.mark.parametrize("form", ["folder", "zip", "zip of a folder"])
def test_labels_of_dataset_json(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_styled(tmp_path / "edm", STYLED)
    if form != "folder":
        path = zipped(path, tmp_path / "edm.zip", "top/" if form == "zip of a folder" else "")
    split = everything(path)
    assert split.labels is not None
    assert split.labels.tolist() == [2, 0, 0, 4, 2, 0]
    assert split.labels.dtype == np.int32
    assert split.num_classes == 5
    assert first_pixels(split) == [[i, 0, 0] for i in range(6)]
    assert class_names(DatasetConfig(path=str(path))) == []
    assert not said(caplog), "dataset.json is not left out"


def test_numbered_folders_are_no_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_styled(tmp_path / "edm", None)
    assert everything(path).labels is None
    (path / "dataset.json").write_text('{"name": "something else"}')
    assert everything(path).num_classes == 3
    assert "1 .json" in said(caplog)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (STYLED[:-1], "dataset.json has no label for 1 of 6 images, first 00002/img00000005.png"),
        ([[name, [0.0, 1.0]] for name, _ in STYLED], r"must be \[file name, class\] pairs"),
        ([[name, -1] for name, _ in STYLED], r"must be \[file name, class\] pairs"),
        ([[name, 2**31] for name, _ in STYLED], r"must be \[file name, class\] pairs"),
        ([1, 2], r"must be \[file name, class\] pairs"),
        (7, r"must be \[file name, class\] pairs"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        everything(write_styled(tmp_path / "edm", labels))


def test_a_mac_archive_of_class_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cats/0.png", "dogs/0.png"):
        write(tmp_path / "photos" / name)
    with zipfile.ZipFile(zipped(tmp_path / "photos", tmp_path / "photos.zip", "photos/"), "a") as file:
        file.writestr("__MACOSX/photos/cats/._0.png", b"resource fork")
        file.writestr("photos/.DS_Store", b"")
    assert everything(tmp_path / "photos.zip").num_classes == 2
    assert "2 files are left out, 2 hidden" in said(caplog)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    write_styled(tmp_path / "edm", STYLED)
    whole = zipped(tmp_path / "edm", tmp_path / "edm.zip").read_bytes()
    for content in (b"", b"PK no archive", whole[:-30], whole[: len(whole) // 2]):
        (tmp_path / "edm.zip").write_bytes(content)
        with pytest.raises(ValueError, match=r"edm.zip cannot be read as a .zip archive"):
            everything(tmp_path / "edm.zip")
    flipped = bytearray(whole)
    flipped[whole.index(b"IDAT") + 8] ^= 1
    (tmp_path / "edm.zip").write_bytes(flipped)
    with pytest.raises(ValueError, match=r"edm.zip/00000/img00000000.png cannot be read as an image"):
        everything(tmp_path / "edm.zip")
    os.truncate(tmp_path / "edm" / "dataset.json", 20)
    with pytest.raises(ValueError, match=r"dataset.json cannot be read as JSON"):
        everything(tmp_path / "edm")
