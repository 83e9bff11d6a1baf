"""Values of a configuration that are of another type than the parameter they are for, such as text for a number."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from famseg.errors import UserError

# type of a parameter -> types of values that it takes, and what to ask for
_TAKES: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "a word"),
    Path: ((str,), "a path"),
    NoneType: ((NoneType,), "null"),
}


def require_types(config: DictConfig) -> None:
    """Refuse values that the parameters of the package's own targets do not take.

    Parameters of other types than numbers, words, paths and booleans are not looked at, and neither are targets of
    other packages.

    Raises:
        UserError: a value is of another type; the message names its key.
    """
    for path, node in _targets(config, ""):
        hints = _hints(get_object(str(node["_target_"])))
        for key, value in _values(node):
            if key in hints:
                _require(f"{path}.{key}", value, hints[key])


def _targets(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """The nodes of the package's own targets with their keys."""
    if str(node.get("_target_")).startswith("famseg."):
        yield path, node
    for key, child in _values(node):
        if isinstance(child, DictConfig):
            yield from _targets(child, f"{path}.{key}".lstrip("."))


def _values(node: DictConfig) -> Iterator[tuple[str, Any]]:
    """What a node holds itself; what it takes from elsewhere is looked at there."""
    for key in map(str, node):
        if key in node and not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
            yield key, node[key]


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = vars(target).get("__init__") if isinstance(target, type) else target
    return get_type_hints(function) if function else {}


def _require(key: str, value: object, hint: Any) -> None:
    wanted: list[str] = []
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]:
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return
            wanted += map(str, get_args(kind))
        elif kind not in _TAKES:
            return
        else:
            types, words = _TAKES[kind]
            if isinstance(value, types) and (kind is bool or not isinstance(value, bool)):
                return
            wanted.append(words)
    raise UserError(f"{key}={value}: give {' or '.join(dict.fromkeys(wanted))}.")
