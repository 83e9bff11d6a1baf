"""Imports all of famseg; read by the process that cells are forked from (`famseg.study.process`)."""

import gc
import importlib
import pkgutil
from contextlib import suppress

import famseg

for module in pkgutil.walk_packages(famseg.__path__, "famseg.", onerror=lambda _: None):
    with suppress(Exception):  # a cell that needs it will say what is wrong with it
        importlib.import_module(module.name)
gc.freeze()  # cells' collectors would write to each object, and a cell have 130 MB of its own for that
