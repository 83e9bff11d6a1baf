"""Types of values, against the signatures that they are for."""

import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from famseg.configuration import composed
from famseg.errors import UserError
from famseg.value_types import require_types


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scheduler.window=wide", r"scheduler\.window=wide: give a number"),
        ("loss.dice_weight=abc", r"loss\.dice_weight=abc: give a number"),
        ("data.augment.scale=true", r"data\.augment\.scale=True: give a number"),
        ("model.rank=1.5", r"model\.rank=1\.5: give a whole number"),
        ("model.mamba=no", r"model\.mamba=no: give true or false"),
        ("switch.at=soon", r"switch\.at=soon: give a number or a whole number"),
        ("switch.lr=later", r"switch\.lr=later: give continue or restart or a number"),
        ("optimizer.rates.init_lr=null", r"optimizer\.rates\.init_lr=None: give a number"),
        ("switch.optimizer.build.momentum=much", r"switch\.optimizer\.build\.momentum=much: give a number"),
        ("optimizer.build.betas=0.9", r"optimizer\.build\.betas=0\.9: give \[a number, \.\.\.\]\."),
        ("task.model=unet", r"task\.model=unet: give an object \(_target_: "),
        ("switch.then=sgd", r"switch\.then=sgd: give a Switch \(_target_: \.\.\.\) or null"),
        ("task.channels_last=perhaps", r"task\.channels_last=perhaps: give true or false or auto"),
        ("data.ids=[1,2]", r"data\.ids=\[1, 2\]: give {NAME: a whole number, \.\.\.} or null"),
        ("data.ids={FB: high}", r"data\.ids={'FB': 'high'}: give {NAME: a whole number"),
        ("data.absent=FL", r"data\.absent=FL: give \[a word, \.\.\.\]"),
        ("data.folds=many", r"data\.folds=many: give a whole number"),
        ("data.stratify=often", r"data\.stratify=often: give true or false"),
        ("model.widths=16", r"model\.widths=16: give \[a whole number, \.\.\.\]"),
        ("trainer.sync_batchnorm=never", r"trainer\.sync_batchnorm=never: give true or false"),
    ],
)
def test_a_value_of_another_type_is_named_by_its_key(override, message):
    options = ["data=folder", "data.root=DIR", "trainer=ddp"]
    with pytest.raises(UserError, match=message):
        require_types(composed("train", [*options, override, "output=OUT"]))


@pytest.mark.parametrize(
    "override",
    [
        "callbacks.ema.decay=2",
        "callbacks.overlays.every=0",
        "data.augment.flip=1.5",
        "data.augment.blur=-1",
        "data.std=0",
        "loss.backend=cuda",
        "loss.dice_weight=-1",
        "model.head_width=-1",
        "trainer.accelerator=tpu9",
        "trainer.strategy=alone",
    ],
)
def test_a_value_out_of_range_is_named_by_its_key(override):
    group = override.partition(".")[0]
    options = ["callbacks=ema", "model=bisenet_v2", "trainer=cpu", "logger=none", "data.n=20"]
    config = composed("train", [*options, override, "output=OUT"])
    with pytest.raises(InstantiationException) as raised:
        instantiate(config[group], _convert_="all")
    assert isinstance(raised.value.__cause__, UserError)
    assert override.rpartition(".")[2].partition("=")[0] in str(raised.value.__cause__)


@pytest.mark.parametrize("overrides", [[], ["switch.at=20", "switch.lr=1e-3", "data.fold=all", "model.weights=FILE"]])
def test_what_the_signatures_take_is_taken(overrides):
    """Nothing is raised, and nothing of the configuration is changed."""
    config = composed("train", [*overrides, "output=OUT"])
    before = config.copy()
    require_types(config)
    assert config == before
