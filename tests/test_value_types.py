"""Types of values, against the signatures that they are for."""

import pytest

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
    ],
)
def test_text_for_a_number_is_named_by_its_key(override, message):
    with pytest.raises(UserError, match=message):
        require_types(composed("train", [override, "output=OUT"]))


@pytest.mark.parametrize("overrides", [[], ["switch.at=20", "switch.lr=1e-3", "data.fold=all", "model.weights=FILE"]])
def test_what_the_signatures_take_is_taken(overrides):
    """Nothing is raised, and nothing of the configuration is changed."""
    config = composed("train", [*overrides, "output=OUT"])
    before = config.copy()
    require_types(config)
    assert config == before
