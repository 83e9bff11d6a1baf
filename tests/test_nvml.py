"""Energy and load of GPUs, asked of a library that is made up."""

import csv
import math
import sys
from types import SimpleNamespace
from unittest import mock

import fake_nvml
import pytest
import torch

from famseg import nvml
from famseg.callbacks.data_time import DataTime
from famseg.callbacks.record import RunRecord


def test_numbers_and_what_a_gpu_does_not_count(monkeypatch):
    fake_nvml.install(monkeypatch, joules=(7200.5,))
    first, second = nvml.visible_gpus()
    assert (first.joules(), first.watts(), first.busy(), first.memory()) == (7200.5, 100.0, 90.0, 3.0)
    assert second.busy() == 50.0
    assert math.isnan(second.joules())


@pytest.mark.parametrize(
    ("visible", "names"), [("1", ["1"]), ("GPU-second, 0", ["GPU-second", "0"]), ("", []), ("3", []), ("MIG-1", [])]
)
def test_only_visible_gpus_in_their_order(monkeypatch, visible, names):
    fake_nvml.install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in nvml.visible_gpus()] == names


def test_no_driver_and_no_library(monkeypatch):
    fake_nvml.install(monkeypatch, present=False)
    assert nvml.visible_gpus() == []
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.visible_gpus() == []


class Timing:
    """The record of two epochs on made-up devices: row by row of timing.csv."""

    def __init__(self, folder, device, device_ids):
        trainer = SimpleNamespace(
            is_global_zero=True,
            current_epoch=0,
            callback_metrics={},
            strategy=SimpleNamespace(root_device=torch.device(device)),
            device_ids=device_ids,
            world_size=1,
            datamodule=SimpleNamespace(lies_on_device=True),
            optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])],
        )
        phase = SimpleNamespace(optimizer=SimpleNamespace(name="adamw"))
        task = SimpleNamespace(plan_phases=lambda: [phase], phase=0, losses=[1.0])
        record = RunRecord(str(folder))
        record._gpus = []
        on_cpu = DataTime(torch.device("cpu"))
        with mock.patch("famseg.callbacks.record.DataTime", return_value=on_cpu):
            record.on_train_start(trainer, task)
        for epoch in range(2):
            trainer.current_epoch = epoch
            record.on_train_epoch_start(trainer, task)
            record.on_train_epoch_end(trainer, task)
        with (folder / "timing.csv").open() as file:
            self.rows = list(csv.DictReader(file))


def test_an_epoch_has_its_energy(monkeypatch, tmp_path):
    fake_nvml.install(monkeypatch, joules=(0, 100, 3700, 4000, 5800))
    rows = Timing(tmp_path, "cuda:0", [0]).rows
    assert [float(row["energy_wh"]) for row in rows] == [1.0, 0.5]  # 3600 J, 1800 J; not what lies between epochs
    assert float(rows[0]["peak_gib"]) == 0.0  # no tensor is on a GPU here


def test_a_gpu_without_a_meter_has_no_column_of_energy(monkeypatch, tmp_path):
    fake_nvml.install(monkeypatch)
    assert "energy_wh" not in Timing(tmp_path, "cuda:1", [1]).rows[0]


def test_a_cpu_has_no_columns_of_a_gpu(monkeypatch, tmp_path):
    fake_nvml.install(monkeypatch)
    assert set(Timing(tmp_path, "cpu", [0]).rows[0]) == {"epoch", "train_seconds", "data_seconds", "images_per_s"}
