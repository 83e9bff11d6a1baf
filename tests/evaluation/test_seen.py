"""Images that a run was trained on are named when they are scored."""

import pytest

from famseg.evaluation.seen import title, with_split


@pytest.fixture
def split_file(tmp_path):
    path = tmp_path / "split.csv"
    path.write_text("file,group,split\na.png,a,train\nhc18/b.png,b,val\nc.png,c,test\n")
    return path


def rows(*names):
    return [{"file": name, "dice_fb": 0.5} for name in names]


def test_images_that_were_trained_on_are_marked_and_counted(split_file, caplog):
    marked = with_split(rows("a.png", "b.png", "c.png", "new.png"), split_file)
    assert [row["split"] for row in marked] == ["train", "val", "test", ""]
    assert list(marked[0]) == ["file", "split", "dice_fb"]
    assert title(marked, split_file) == "4 images, 1 trained on"
    assert "Of 4 images, by their names, the run was trained on 1 and chose its best checkpoint by 1:" in caplog.text
    assert f"data.split_file={split_file}" in caplog.text


def test_a_set_within_several_is_known_by_the_name_of_its_files(split_file):
    marked = with_split(rows("head/a.png", "hc18/b.png", "b.png"), split_file)
    assert [row["split"] for row in marked] == ["train", "val", "val"]


def test_of_other_images_and_of_a_checkpoint_without_a_run_nothing_is_said(split_file, tmp_path, caplog):
    assert title(with_split(rows("c.png", "new.png"), split_file), split_file) == "2 test images"
    none = tmp_path / "none.csv"
    assert [row["split"] for row in with_split(rows("a.png"), none)] == [""]
    assert title(rows("a.png"), split_file) == "1 test images"  # the run's own test
    assert not caplog.text
