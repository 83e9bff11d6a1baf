"""What a sweep writes about its GPUs and its cells' starts."""

import csv
import time

import fake_nvml

from famseg.study.spans import SPANS, begin, end, read_spans
from famseg.study.watch import LOADS, watched


def test_a_row_per_gpu_and_moment(monkeypatch, tmp_path):
    fake_nvml.install(monkeypatch)
    for _ in range(2):  # the second sweep appends
        with watched(tmp_path, every=0.01):
            time.sleep(0.05)
    with (tmp_path / LOADS).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["gpu"]: (row["busy_percent"], row["memory_gib"], row["watts"]) for row in rows} == {
        "0": ("90", "3", "100"),
        "1": ("50", "3", "100"),
    }
    assert len(rows) >= 4
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_no_file_without_a_gpu(monkeypatch, tmp_path):
    fake_nvml.install(monkeypatch, present=False)
    with watched(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_starts_and_ends_of_a_cell(monkeypatch, tmp_path):
    cell = tmp_path / "cell"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    begin(cell)
    end(cell, "its process died")
    with (cell / SPANS).open("a") as file:
        file.write('{"start": 1\n')  # a machine that lost its power
    begin(cell)
    first, second = read_spans(cell)
    assert (first.cell, first.gpus, first.problem) == ("cell", "2", "its process died")
    assert first.start <= first.end <= second.start
    assert second.end is None


def test_the_serial_launcher_writes_spans(stub):
    done = stub("seed=0,1", FAIL="1")
    assert done.returncode == 1
    problems = {path.parent.name: read_spans(path.parent)[0].problem for path in stub.study.glob(f"*/{SPANS}")}
    assert sorted(problems.values()) == ["", "ValueError: told to fail"]
