"""Synthetic B-mode images of fetal heads and femurs: the default data, no download needed."""

from famseg.data.phantom.source import Phantom, datamodule

__all__ = ["Phantom", "datamodule"]
