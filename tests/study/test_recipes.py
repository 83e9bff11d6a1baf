"""The paper's tables as sweeps: which cells they have, and that each composes."""

from collections import Counter
from functools import cache
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from famseg.configuration import composed, folder
from famseg.study.identity import identity, resolved, setting

CELLS = {"table1": 8, "table2": 10, "table3": 6, "fig5": 9, "tables": 21}


@cache
def cells(recipe, *arguments):
    """The overrides of every cell that `python train.py -m experiment=RECIPE ARGUMENTS` runs."""
    with initialize_config_dir(str(folder().resolve()), version_base="1.3"):
        hydra = compose("train", [f"experiment={recipe}"], return_hydra_config=True).hydra
    from hydra_plugins.famseg_rows.sweeper import RowSweeper  # not before Hydra, which loads its plugins anew

    options = OmegaConf.to_container(hydra.sweeper)
    assert options.pop("_target_") == "hydra_plugins.famseg_rows.sweeper.RowSweeper"
    sweeper = RowSweeper(**options)
    sweeper.hydra_context = SimpleNamespace(config_loader=None)
    axes = [f"{key}={choices}" for key, choices in sweeper.params.items()]
    overrides = OverridesParser.create().parse_overrides([*axes, f"experiment={recipe}", *arguments])
    (batch,) = sweeper.split_arguments(overrides, None)
    return batch


STUDIES = {"hc18_models": 10, "switch": 6, "jagged": 3, "worst": 7}
EVERY = [(recipe, number) for recipe, count in CELLS.items() for number in range(count)]


@pytest.mark.parametrize("recipe", CELLS)
def test_the_number_of_cells(recipe):
    assert len(cells(recipe)) == CELLS[recipe]
    assert len(cells(recipe, "seed=0,1,2")) == 3 * CELLS[recipe]


@pytest.mark.parametrize(("recipe", "number"), EVERY)
def test_every_cell_composes_with_the_papers_recipe(recipe, number):
    overrides = cells(recipe)[number]
    config = composed("train", [*overrides, "output=out"])
    assert config.trainer.max_epochs == 200
    if recipe in ("table1", "table3"):
        assert (config.optimizer.name, config.switch.optimizer.name) == ("adamw", "sgd")


@pytest.mark.parametrize("recipe", STUDIES)
def test_the_studies_on_hc18(recipe):
    every = cells(recipe, "data.root=none", "trainer.max_epochs=8", "seed=0,1")
    assert len(every) == 2 * STUDIES[recipe]
    configs = [resolved(composed("train", [*overrides, "output=out"])) for overrides in every]
    assert len({identity(config) for config in configs}) == len(every)
    for config in configs:
        assert (config["study"], config["trainer"]["max_epochs"], config["data"]["batch_size"]) == (recipe, 8, 16)
        assert config["data"]["_target_"] == "famseg.data.hc18.datamodule"


def test_a_switch_moves_with_the_epochs():
    switched = [each for each in cells("switch", "data.root=none") if "switch=sgd_at_150" in each]
    configs = [composed("train", [*each, "output=out"]) for each in switched]
    assert {(config.switch.at, config.switch.lr) for config in configs} == {(0.75, "continue"), (0.75, "restart")}


def test_the_cells_of_table_2():
    configs = [composed("train", [*overrides, "output=out"]) for overrides in cells("table2")]
    pairs = Counter((config.optimizer.name, config.scheduler._target_, bool(config.switch)) for config in configs)
    assert len(pairs) == 10
    assert sum(count for (*_, switch), count in pairs.items() if switch) == 1
    assert pairs["adamw", "famseg.schedules.adadelta", True] == 1


def identities(recipe):
    return [identity(resolved(composed("train", each))) for each in cells(recipe)]


def test_fig_5_is_drawn_from_the_cells_of_table_2():
    assert set(identities("fig5")) < set(identities("table2"))


@pytest.mark.slow
def test_one_study_of_all_tables_trains_what_they_share_once():
    together = identities("tables")
    assert len(set(together)) == len(together)
    assert set(together) == {each for table in ("table1", "table2", "table3") for each in identities(table)}


def test_the_parts_of_table_3():
    models = [composed("train", each).model for each in cells("table3") if "model=segnext_t" not in each]
    parts = [(m.mamba, sum(m.bottle_blocks), m.fusion, m.upsample) for m in models]
    whole = (True, 4, "full", "fam")
    assert parts[-1] == whole
    assert [sum(a != b for a, b in zip(part, whole, strict=True)) for part in parts] == [1, 1, 1, 1, 0]


def test_the_command_line_wins_over_a_row():
    assert len(cells("table2", "optimizer=adamw")) == 4
    assert len(cells("table2", "scheduler=cos", "switch=none", "optimizer=adamw")) == 1  # no cell twice


def test_seeds_repeat_a_setting():
    first, second = (resolved(composed("train", each)) for each in cells("fig5", "seed=3,4")[:2])
    assert setting(first) == setting(second)
    assert identity(first) != identity(second)


@pytest.mark.parametrize(("scale", "epochs", "images"), [("smoke", 4, 60), ("short", 40, 300), ("full", 200, None)])
@pytest.mark.parametrize("data", ["phantom", "fetal_public"])
def test_a_scale_sets_epochs_and_images(scale, epochs, images, data):
    root = ["data.root=none"] if data == "fetal_public" else []
    config = composed("train", ["experiment=fig5", f"scale={scale}", f"data={data}", *root, "output=out"])
    assert (config.trainer.max_epochs, config.data.images) == (epochs, images)


def test_a_scale_goes_over_a_recipe_and_the_command_line_over_both():
    config = composed("train", ["experiment=quickstart", "scale=smoke", "data.images=30", "output=out"])
    assert (config.trainer.max_epochs, config.data.images) == (4, 30)
