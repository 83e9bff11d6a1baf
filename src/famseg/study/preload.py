"""Imports all of famseg; read by the process that cells are forked from (`famseg.study.process`)."""

import importlib
import pkgutil
from contextlib import suppress

import famseg

for module in pkgutil.walk_packages(famseg.__path__, "famseg.", onerror=lambda _: None):
    with suppress(Exception):  # a cell that needs it will say what is wrong with it
        importlib.import_module(module.name)
