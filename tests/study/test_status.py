"""The table of a study, by the command `famseg study status`."""

import json
import subprocess
import sys

import pytest

from famseg.cli import main
from famseg.study.cells import read_cell, read_study
from famseg.study.progress import returned
from famseg.study.status import status_table


def cell(study, name, state="done", epochs=2, revision="abc", seconds=65.0, error=None, scores=(0.5, 0.75)):
    folder = study / name
    folder.mkdir()
    (folder / "status.json").write_text(json.dumps({"state": state, "seconds": seconds, "error": error}))
    (folder / "config.yaml").write_text(f"seed: {len(name)}\nmonitor: val/miou\ntrainer: {{max_epochs: {epochs}}}\n")
    (folder / "environment.json").write_text(json.dumps({"revision": revision}))
    rows = [f"{epoch},{score}" for epoch, score in enumerate(scores)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,val/miou", *rows]) + "\n")
    return folder


def lines(study):
    return status_table(study, read_study(study)).splitlines()


def test_a_line_per_cell(tmp_path):
    cell(tmp_path, "a")
    cell(tmp_path, "bb", "failed", epochs=3, error="Traceback\nUserError: no data\n", scores=())
    head, first, second, _, about = lines(tmp_path)
    assert head.split() == ["state", "cell", "epochs", "best", "time", "problem"]
    assert first.split() == ["done", "a", "2/2", "0.7500", "0:01:05"]
    assert second.split() == ["failed", "bb", "0/3", "-", "0:01:05", "UserError:", "no", "data"]
    assert about == "1 of 2 cells are done, 1 failed."


def test_the_best_loss_is_the_lowest(tmp_path):
    folder = cell(tmp_path, "a")
    (folder / "config.yaml").write_text("monitor: val/loss\n")
    (folder / "metrics.csv").write_text("epoch,val/loss\n0,0.9\n1,0.3\n2,0.7\n3,\n")
    assert lines(tmp_path)[1].split()[3] == "0.3000"
    assert returned(read_cell(folder)) == -0.3


def test_half_written_and_foreign_files(tmp_path):
    (cell(tmp_path, "a") / "metrics.csv").write_bytes(b"epoch,val/mi\xff\x00")
    (cell(tmp_path, "bb") / "metrics.csv").write_text("epoch,val/miou\n0,0.5\n1,")
    (cell(tmp_path, "ccc") / "config.yaml").write_text("trainer: 3")
    (cell(tmp_path, "dddd") / "status.json").write_text("{")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "report").mkdir()
    _, a, b, c, d, _, about = lines(tmp_path)
    assert a.split()[2:4] == ["0/2", "-"]
    assert b.split()[2:4] == ["2/2", "0.5000"]
    assert c.split()[2:4] == ["2/?", "0.7500"]
    assert "unreadable" in d
    assert "JSONDecodeError" in d
    assert about == "3 of 4 cells are done, 1 unreadable."


def test_revisions_and_repetitions_are_said(tmp_path):
    cell(tmp_path, "a", revision="abc")
    cell(tmp_path, "b", revision="def+changes")
    assert lines(tmp_path)[-2:] == [
        "They are of 2 code revisions: abc, def+changes.",
        "Some are the same experiment run twice.",
    ]


def test_no_finished_cell(tmp_path):
    cell(tmp_path, "a", "running", scores=())
    _, row, _, about = lines(tmp_path)
    assert row.split()[:5] == ["lost", "a", "0/2", "-", "-"]
    assert about == "0 of 1 cells are done, 1 lost."


def test_the_command(tmp_path, capsys):
    assert main(["study", "status", str(tmp_path)]) == 0
    assert "no cells yet" in capsys.readouterr().out
    assert main(["study", "status", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["study"])


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    """As in `famseg study status DIR | head -1`."""
    cell(tmp_path, "a")
    command = [sys.executable, "-m", "famseg.cli", "study", "status", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (1, "")
