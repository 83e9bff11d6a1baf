"""Studies as they are found: half-written, failed, foreign, of different code. All is said, nothing is guessed."""

import json
import shutil

import pytest
from studies import write_cell

from famseg import cli
from famseg.errors import UserError
from famseg.report.study import load_study

PLAIN = ("data=hc18", "switch=none", "scheduler=cos")


@pytest.fixture
def study(tmp_path):
    """A study of two finished cells."""
    folder = tmp_path / "models"
    for name in ("unet", "swin"):
        write_cell(folder, *PLAIN, model=name, name=name, images=8, epochs=3)
    return folder


def truncate(path, keep=0.6):
    text = path.read_text()
    path.write_text(text[: int(len(text) * keep)])


@pytest.mark.parametrize(
    ("file", "words"),
    [("test.csv", "half-written"), ("test_scores.csv", "half-written"), ("split.csv", "half-written")],
)
def test_half_written_results_keep_a_cell_out_and_are_named(study, file, words, fault):
    fault(f"a study's cell whose {file} is half-written", "left out of the tables, named in the report, exit code 1")
    truncate(study / "unet" / file, 0.32 if file == "split.csv" else 0.6)
    found = load_study(study)
    assert [record.cell.name for record in found.records] == ["swin"]
    (line,) = found.faults
    assert "unet" in line
    assert file in line
    assert words in line


def test_a_missing_table_is_named(study):
    (study / "unet" / "test_scores.csv").unlink()
    assert load_study(study).faults == [f"{study / 'unet' / 'test_scores.csv'}: missing."]


def test_words_among_the_numbers_are_named(study):
    path = study / "unet" / "test.csv"
    path.write_text(path.read_text().replace("0.9", "x.9", 1))
    assert "something else than numbers" in load_study(study).faults[0]


def test_a_test_of_fewer_images_than_the_split_is_named(study):
    path = study / "unet" / "test.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")
    assert "2 of the split's 8 test images are missing" in load_study(study).faults[0]


def test_half_written_curves_leave_the_scores_in(study):
    truncate(study / "unet" / "metrics.csv", 0.9)
    found = load_study(study)
    assert len(found.records) == 2
    assert "metrics.csv: half-written" in found.faults[0]


@pytest.mark.parametrize("state", ["failed", "running", "resumable", "lost"])
def test_cells_without_an_end_are_listed(study, state):
    write_cell(study, *PLAIN, model="convnext", name="convnext", state="failed" if state == "failed" else "running")
    if state == "resumable":
        path = study / "convnext" / "status.json"
        path.write_text(path.read_text().replace("running", "resumable"))
    if state == "lost":
        (study / "convnext" / ".lock").touch()
    found = load_study(study)
    (line,) = found.faults
    assert line.startswith("convnext: ")
    assert "planted" in line or state != "failed"
    assert any("no finished run of ConvNeXt" in remark for remark in found.remarks)


def test_an_unreadable_configuration_is_listed(study):
    (study / "unet" / "config.yaml").write_text("model: [")
    (line,) = load_study(study).faults
    assert line.startswith("unet: ")
    assert "config.yaml" in line


def test_a_configuration_of_another_program_is_listed(study):
    (study / "unet" / "config.yaml").write_text("x: 1\n")
    (line,) = load_study(study).faults
    assert line == "unet: config.yaml: no seed; it cannot be told what it is."


def test_different_revisions_and_devices_are_said(study):
    write_cell(study, *PLAIN, model="twins", revision="ffff+changes", gpus=["NVIDIA H200"], images=8, epochs=3)
    remarks = " ".join(load_study(study).remarks)
    assert "2 different revisions" in remarks
    assert "ffff+changes" in remarks
    assert "uncommitted changes" in remarks
    assert "NVIDIA H200: 1 runs" in remarks


def test_different_test_images_are_said(study):
    write_cell(study, *PLAIN, model="twins", images=6, epochs=3)
    assert any("2 different sets of images, which share 6" in line for line in load_study(study).remarks)


def test_fewer_seeds_are_said(study):
    write_cell(study, *PLAIN, model="unet", seed=1, images=8, epochs=3)
    assert any("1 of 2 seeds" in line for line in load_study(study).remarks)


def test_foreign_files_are_named_and_passed_over(study):
    (study / "notes.txt").write_text("mine")
    (study / "pictures").mkdir()
    found = load_study(study)
    assert len(found.cells) == 2
    assert any("notes.txt, pictures" in line for line in found.remarks)


def test_of_a_repeated_experiment_the_newest_counts(study):
    write_cell(study, *PLAIN, model="unet", name="again", images=8, epochs=3, updated=1_800_000_000.0)
    found = load_study(study)
    assert sorted(record.cell.name for record in found.records) == ["again", "swin"]
    assert "unet: the same experiment as again" in found.faults[0]


def test_no_finished_cell_is_a_sentence(study, capsys, fault):
    fault("a study without a finished cell", "one sentence with the reason, exit code 2, nothing written")
    for name in ("unet", "swin"):
        status = study / name / "status.json"
        status.write_text(json.dumps({"state": "failed", "error": "RuntimeError: out of memory"}))
    assert cli.main(["report", str(study)]) == 2
    printed = capsys.readouterr().err
    assert "none of its 2 cells has finished" in printed
    assert "out of memory" in printed
    assert not (study / "report").exists()


@pytest.mark.parametrize("what", ["nothing", "empty", "run"])
def test_folders_that_are_no_study(study, tmp_path, what):
    (tmp_path / "empty").mkdir()
    folder = {"nothing": tmp_path / "no", "empty": tmp_path / "empty", "run": study / "unet"}[what]
    words = {"nothing": "no such folder", "empty": "holds no runs", "run": "is a single run"}[what]
    with pytest.raises(UserError, match=words):
        load_study(folder)


def test_the_report_says_it_and_the_exit_code_too(study, capsys):
    truncate(study / "unet" / "test.csv")
    assert cli.main(["report", str(study), "--no-images"]) == 1
    assert "half-written" in capsys.readouterr().err
    text = (study / "report" / "tables.md").read_text()
    assert "half-written" in text.partition("## What is missing")[2]
    assert "half-written" in (study / "report" / "index.html").read_text()


def test_gone_checkpoints_cost_the_pictures_only(study, capsys):
    assert cli.main(["report", str(study)]) == 0
    assert not (study / "report" / "examples.png").exists()
    assert "Example images, U-Net" in (study / "report" / "tables.md").read_text()


def test_a_second_report_replaces_the_first(study):
    assert cli.main(["report", str(study), "--no-images"]) == 0
    first = (study / "report" / "tables.md").read_text()
    shutil.rmtree(study / "swin")
    assert cli.main(["report", str(study), "--no-images"]) == 0
    assert (study / "report" / "tables.md").read_text() != first
    assert "report" not in (study / "report" / "tables.md").read_text().partition("passed over")[2]
