"""Networks: image -> logits. No loss, no Lightning, no Hydra."""

from famseg.models.bisenet_v2 import BiSeNetV2
from famseg.models.famseg import SIZES, FAMSeg
from famseg.models.library import LibraryModel
from famseg.models.segnext import SegNeXt

__all__ = ["SIZES", "BiSeNetV2", "FAMSeg", "LibraryModel", "SegNeXt"]
