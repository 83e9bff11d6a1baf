"""`famseg predict` as a user types it, with a real checkpoint."""

import csv
import os
import signal
import subprocess
import sys
import time

import pytest

from famseg.cli import main
from famseg.prediction import predict as predict_module


@pytest.fixture
def folder(write_image, picture, tmp_path):
    for name in ("a.png", "deep/b.jpg"):
        write_image(f"scans/{name}", picture)
    return tmp_path / "scans"


def command(folder, checkpoint, *more):
    out = folder.parent / "out"
    return main(["predict", str(folder), "--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", *more])


def test_a_folder_of_images(folder, checkpoint, capsys):
    assert command(folder, checkpoint, "--spacing", "0.2", "--weeks", "20+3", "--tta", "flip", "--batch", "1") == 0
    with (folder.parent / "out" / "biometry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mask"] for row in rows] == ["masks/a.png", "masks/b.png"]
    assert {row["spacing_mm"] for row in rows} == {"0.2"}
    printed = capsys.readouterr()
    assert "2 of 2 images" in printed.out
    assert "not a medical device" in printed.out
    assert printed.err == ""


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_results_are_not_replaced_unasked(folder, checkpoint, capsys):
    out = folder.parent / "out"
    assert command(folder, checkpoint, "--spacing", "0.2") == 0
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    capsys.readouterr()
    assert command(folder, checkpoint) == 2
    assert command(folder, checkpoint, "--checkpoint", "missing.ckpt", "--overwrite") == 2
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before


def test_a_terminated_run_keeps_what_it_has(folder, checkpoint, monkeypatch):
    """A queue whose time is over sends SIGTERM: the masks were there, and no table said whose they were."""
    read = predict_module.read_scan

    def read_one(path, spacing):
        if path.name == "b.jpg":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # until the main thread has heard of it
        return read(path, spacing)

    monkeypatch.setattr(predict_module, "read_scan", read_one)
    before = signal.signal(signal.SIGTERM, ours := lambda *_: pytest.fail("SIGTERM was not taken"))
    try:
        with pytest.raises(SystemExit) as raised:
            command(folder, checkpoint, "--batch", "1")
        assert raised.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)
    with (folder.parent / "out" / "biometry.csv").open() as file:
        assert [row["mask"] for row in csv.DictReader(file)] == ["masks/a.png"]


def test_overwrite_removes_what_was_predicted_and_nothing_else(folder, checkpoint, capsys):
    out = folder.parent / "out"
    assert command(folder, checkpoint) == 0
    (out / "masks" / "mine.png").write_text("drawn by hand")
    (out / "notes.txt").write_text("mine")
    (folder / "a.png").unlink()
    assert command(folder, checkpoint) == 2
    assert "Choose another --out, or add --overwrite" in capsys.readouterr().err
    assert command(folder, checkpoint, "--overwrite") == 0
    predicted = {"biometry.csv", "masks/b.png", "overlays/b.png"}
    assert files_below(out) == predicted | {"masks/mine.png", "notes.txt"}


def test_overwrite_removes_neither_inputs_nor_tables_of_others(folder, checkpoint, capsys):
    out = folder.parent / "out"
    assert command(folder, checkpoint) == 0
    arguments = ["--checkpoint", str(checkpoint), "--out", str(out), "--device", "cpu", "--overwrite"]
    assert main(["predict", str(out / "masks" / "a.png"), *arguments]) == 2
    assert "a.png: is a result that --overwrite would remove" in capsys.readouterr().err
    assert (out / "masks" / "a.png").exists()
    (out / "biometry.csv").write_text("file,mask\nx,../scans/a.png\n")
    assert command(folder, checkpoint, "--overwrite") == 2
    (out / "biometry.csv").write_text("notice,file,mask\nx,x,../scans/a.png\n")
    assert command(folder, checkpoint, "--overwrite") == 0
    assert (folder / "a.png").exists()


def test_a_table_of_pixel_sizes_that_does_not_fit_is_said(folder, checkpoint, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("file,mm_per_pixel\ndeep/b.jpg,0.2\nc.png,0.3\n")
    assert command(folder, checkpoint, "--spacing", str(tmp_path / "t.csv")) == 0
    unused, lacking = capsys.readouterr().err.splitlines()
    assert "no image for c.png" in unused
    assert f"no pixel size for {folder / 'a.png'}" in lacking
    with (tmp_path / "out" / "biometry.csv").open() as file:
        assert [row["spacing_mm"] for row in csv.DictReader(file)] == ["", "0.2"]


def test_one_bad_file_is_named_and_the_exit_code_says_so(folder, checkpoint, capsys):
    (folder / "bad.png").write_bytes(b"")
    assert command(folder, checkpoint) == 1
    printed = capsys.readouterr()
    assert "2 of 3 images" in printed.out
    assert printed.err.count("\n") == 1
    assert "bad.png" in printed.err


def test_several_checkpoints_and_a_submission(folder, checkpoint, tmp_path):
    more = ["--checkpoint", str(checkpoint), "--spacing", "0.2", "--hc18-submission", str(tmp_path / "sub.csv")]
    assert command(folder, checkpoint, *more) in (0, 1)  # an untrained network may find no head
    assert (tmp_path / "sub.csv").exists()


def test_a_submission_is_not_overwritten_unless_told_to(folder, checkpoint, tmp_path, capsys):
    file = tmp_path / "sub.csv"
    file.write_text("precious")
    more = ["--spacing", "0.2", "--hc18-submission", str(file)]
    assert command(folder, checkpoint, *more) == 2
    assert "sub.csv: is there already" in capsys.readouterr().err
    assert file.read_text() == "precious"
    assert command(folder, checkpoint, *more, "--overwrite") in (0, 1)
    assert file.read_text() != "precious"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--spacing", "0"], "--spacing 0"),
        (["--spacing", "12"], "--spacing 12: pixel size '12' is outside the 0.02 to 2 mm"),
        (["--weeks", "60"], "age '60'"),
        (["--checkpoint", "missing.ckpt"], "missing.ckpt"),
        (["--device", "abacus"], "device abacus"),
    ],
)
def test_mistakes_are_said_in_one_line(folder, checkpoint, capsys, more, words):
    assert command(folder, checkpoint, *more) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_whole_process_imports_neither_lightning_nor_hydra(folder, checkpoint):
    code = "import sys; from famseg.cli import main; main(sys.argv[1:]); print(sorted(sys.modules))"
    arguments = ["predict", str(folder / "a.png"), "--checkpoint", str(checkpoint), "--out", str(folder / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for heavy in ("lightning", "hydra", "albumentations", "matplotlib", "wandb", "pydicom", "gradio", "pandas"):
        assert f"'{heavy}'" not in done.stdout
