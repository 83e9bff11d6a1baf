import shutil

import cv2
import pytest

from famseg.cli import main
from famseg.data.folder import datamodule
from famseg.data.phantom import Phantom
from famseg.data.stats import stats, text_table, write_stats


@pytest.fixture(scope="module")
def phantoms():
    source = Phantom(9, (64, 80), images_per_subject=1, planes={"both": 1.0})
    return [source[index] for index in range(9)]


@pytest.fixture
def root(phantoms, tmp_path):
    """Nine subjects; data.folds=3 puts some of them in each split."""
    root = tmp_path / "own"
    lines = ["file,mm_per_pixel,subject"]
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number, sample in enumerate(phantoms):
        assert cv2.imwrite(str(root / "images" / f"{number}.png"), sample.image)
        assert cv2.imwrite(str(root / "labels" / f"{number}.png"), sample.mask)
        lines.append(f"{number}.png,{sample.spacing},woman{number}")
    (root / "spacing.csv").write_text("\n".join(lines))
    return root


def plant_a_leak(root):
    """A training image, saved again as a JPEG among those of the test, under another subject's name."""
    splits = datamodule(root, folds=3).splits
    train, test = splits["train"][0], splits["test"][0]
    picture = cv2.imread(str(root / "images" / train), cv2.IMREAD_GRAYSCALE)
    (root / "images" / test).unlink()
    copy = test.replace(".png", ".jpg")
    assert cv2.imwrite(str(root / "images" / copy), picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    shutil.copy(root / "labels" / train, root / "labels" / test)
    table = root / "spacing.csv"
    table.write_text(table.read_text().replace(f"{test},", f"{copy},"))
    return train, copy


def test_a_planted_leak_is_found(root):
    assert stats(datamodule(root, folds=3)).leaks == []
    train, copy = plant_a_leak(root)
    (leak,) = stats(datamodule(root, folds=3)).leaks
    assert {(leak.file, leak.split), (leak.other, leak.other_split)} == {(train, "train"), (copy, "test")}
    assert not leak.same_group
    assert 0 <= leak.bits < 40


def test_table_counts_splits_and_sizes(root, phantoms):
    rows = stats(datamodule(root, folds=3)).rows
    assert [(row["split"], row["images"], row["subjects"]) for row in rows] == [
        ("train", 5, 5),
        ("val", 1, 1),
        ("test", 3, 3),
        ("all", 9, 9),
    ]
    assert rows[-1]["FL_images"] == rows[-1]["FB_images"] == 9
    heads = [sample.truth["ofd_mm"] for sample in phantoms]
    largest = float(rows[-1]["FB_extent_mm"].split(" to ")[1].rstrip(")"))
    assert largest == pytest.approx(max(heads), rel=0.05)  # the head may leave the picture
    assert text_table(rows).splitlines()[1].split() == ["images", "5", "1", "3", "9"]


def test_page_shows_examples_of_every_split(root, tmp_path):
    data = datamodule(root, folds=3)
    page = write_stats(tmp_path / "out", stats(data), data, examples=2).read_text()
    assert page.count("<img ") == page.count("data:image/jpeg;base64,") == 3
    assert "0 pairs straddle splits" in page
    assert "http" not in page  # it needs no other file
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.html", "stats.csv", "copies.csv"}


@pytest.mark.slow
def test_commands_write_statistics_and_split(root, tmp_path, capsys):
    options = ["data=folder", f"data.root={root}", "data.folds=3", "data.stratify=true"]
    assert main(["data", "stats", *options, "--out", str(tmp_path / "out")]) == 0
    assert main(["data", "split", *options, "--out", str(tmp_path / "split.csv")]) == 0
    assert "0 copies straddle splits" in capsys.readouterr().out
    assert (tmp_path / "split.csv").read_text().startswith("file,group,split\n")
    plant_a_leak(root)
    assert main(["data", "stats", *options[:-1], "--out", str(tmp_path / "out")]) == 1
    assert "nearly equal images" in capsys.readouterr().out
