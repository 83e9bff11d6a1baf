"""The figure of the GPUs' load."""

import math

import numpy as np
from studies import write_cell

from famseg.report.interactive import figure
from famseg.report.loads import POINTS, gpu_loads
from famseg.report.static import draw
from famseg.report.study import load_study


def write_loads(path, seconds, busy):
    rows = [f"{1.7e9 + second},{gpu},{busy(second, gpu)},3,100" for second in seconds for gpu in (0, 1)]
    path.write_text("\n".join(["time,gpu,busy_percent,memory_gib,watts", *rows]) + "\n")


def test_curves_are_means_over_time(tmp_path):
    path = tmp_path / "gpus.csv"
    write_loads(path, range(8000), lambda second, gpu: 100 * (second >= 4000) if gpu == 0 else 50)
    (chart,) = gpu_loads(path)
    first, second = chart.lines
    assert [line.name for line in chart.lines] == ["GPU 0 (mean 50 %)", "GPU 1 (mean 50 %)"]
    assert POINTS <= len(first.x) <= POINTS + 1
    np.testing.assert_allclose(first.y, 100.0 * (first.x * 60 >= 4000), atol=100 / 19)
    assert set(second.y) == {50.0}
    assert abs(first.x[-1] - 8000 / 60) < 1
    assert "minutes" in figure(chart)["layout"]["xaxis"]["title"]["text"]
    assert "minutes" in draw(chart).axes[0].get_xlabel()


def test_a_gap_between_two_sweeps_is_none(tmp_path):
    path = tmp_path / "gpus.csv"
    write_loads(path, [0, 1, 2, 60, 61], lambda second, gpu: 80)
    line = gpu_loads(path)[0].lines[0]
    assert sum(not math.isnan(value) for value in line.y) == 5
    assert np.isnan(line.y[10:50]).all()
    assert None in figure(gpu_loads(path)[0])["data"][0]["y"]


def test_half_written_and_empty_files(tmp_path):
    path = tmp_path / "gpus.csv"
    assert gpu_loads(path) == []
    path.write_text("time,gpu,busy_percent,memory_gib,watts\n")
    assert gpu_loads(path) == []
    path.write_text("time,gpu,busy_percent,memory_gib,watts\n1,0,40,3,100\n2,0,,3\n3,0")
    assert gpu_loads(path)[0].lines[0].y.tolist() == [40.0]


def test_the_report_shows_it_and_does_not_call_it_foreign(tmp_path):
    write_cell(tmp_path)
    write_loads(tmp_path / "gpus.csv", range(30), lambda second, gpu: 80)
    study = load_study(tmp_path)
    assert study.charts[-1].key == "gpus"
    assert not any("gpus.csv" in remark for remark in study.remarks)


def test_recorded_energy_is_in_the_table_of_costs(tmp_path):
    folder = write_cell(tmp_path)
    (folder / "timing.csv").write_text(
        "epoch,train_seconds,data_seconds,images_per_s,energy_wh\n0,9,1,50,2\n1,9,1,50,3\n"
    )
    table = load_study(tmp_path).tables[-1]
    assert "energy Wh" in [column.title for column in table.columns]
    assert table.rows[0].setting.mean("energy_wh") == 5.0
    assert any("all runs that shared it" in note for note in table.notes)
