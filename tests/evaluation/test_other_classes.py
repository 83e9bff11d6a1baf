"""eval.py on data whose classes have other names than the network's."""

import cv2
import numpy as np
import pytest

from famseg.configuration import composed
from famseg.errors import UserError
from famseg.evaluation.evaluate import evaluate


def test_a_network_that_marks_nothing_of_what_is_labelled_is_refused(tmp_path):
    """It had a mean IoU, that of the background."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        assert cv2.imwrite(str(tmp_path / folder / "1.png"), np.zeros((40, 48), np.uint8))
    options = ["run=famseg-t-hc18", "data=folder", f"data.root={tmp_path}", "data.fold=all", "device=cpu"]
    with pytest.raises(UserError, match=r"marks FB, the data skull: nothing to score.* 'data\.ids=\{BG: 0, FB: 3\}'"):
        evaluate(composed("eval", [*options, "data.ids={BG: 0, skull: 3}"]), tmp_path / "out")
