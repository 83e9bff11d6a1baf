"""Folders that a person can read and a command line can take."""

import re

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from famseg.study.identity import cell_name, varying

CONFIG = {"study": "table2"}


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["optimizer=adamw", "scheduler=cos", "seed=0"], "optimizer-adamw+scheduler-cos+seed-0"),
        (["experiment=table2", "seed=1"], "seed-1"),
        (["experiment=hc18"], "experiment-hc18"),
        (["model.mamba=false", "+trainer.x=1e-3", "~logger"], "mamba-false+x-1e-3"),
        (["model.bottle_blocks=[0,0,0,0]"], "bottle_blocks-0_0_0_0"),
        (["data.root=/a b/c", "runs=x", "logger=none", "retry=failed", "hydra.launcher.num_gpus=4"], "default"),
        (["data.ids={a: 1, b: '2'}"], "ids-a_1_b_2"),
    ],
)
def test_names_are_short_and_need_no_quotes(overrides, name):
    full = cell_name(overrides, CONFIG)
    assert re.fullmatch(re.escape(name) + r"\+[0-9a-f]{6}", full)
    assert OverridesParser.create().parse_override(f"run=runs/table2/{full}").value() == f"runs/table2/{full}"


def test_long_names_are_cut_and_stay_different():
    long = [f"model.key_{i}={'x' * 30}" for i in range(20)]
    names = [cell_name([*long, f"seed={seed}"], CONFIG | {"seed": seed}) for seed in (0, 1)]
    assert len(names[0]) < 140
    assert names[0] != names[1]


def test_a_name_says_what_tells_a_cell_from_the_others():
    cells = [["trainer=cpu", "optimizer=sgd", "seed=0"], ["trainer=cpu", "optimizer=adam", "seed=0"]]
    assert varying(cells) == [["optimizer=sgd", "seed=0"], ["optimizer=adam", "seed=0"]]
    assert varying([["trainer=cpu", "model=x"], ["trainer=cpu"]]) == [["model=x"], []]
    assert varying(cells[:1]) == cells[:1]
