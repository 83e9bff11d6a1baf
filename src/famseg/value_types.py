"""Values of a configuration that are of another type than the parameter they are for, such as text for a number."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf

from famseg.errors import UserError

PACKAGES = ("famseg.", "torch.")  # whose signatures say what they take

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
    """Refuse values that the parameters of the package's own targets, and of torch's, do not take.

    Where a target hands further options on to what it returns (`**options`), the signature of that counts.

    Raises:
        UserError: a value is of another type; the message names its key.
    """
    for path, node in _targets(config, ""):
        hints = _hints(get_object(str(node["_target_"])))
        for key, value in _values(node):
            if key in hints and not _fits(value, hints[key]):
                wanted = " or ".join(dict.fromkeys(_words(hints[key]))) or "an object (_target_: ...)"
                raise UserError(f"{path}.{key}={value}: give {wanted}.")


def _targets(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """The nodes of the packages' targets with their keys."""
    if str(node.get("_target_")).startswith(PACKAGES):
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
    if function is None:
        return {}
    hints = get_type_hints(function)
    made = hints.pop("return", None)
    passes_on = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
    return (_hints(made) if passes_on and isinstance(made, type) else {}) | hints


def _fits(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if hint in (Any, object) or (isinstance(value, DictConfig) and "_target_" in value):
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind in _TAKES:
        return isinstance(value, _TAKES[kind][0]) and (kind is bool or not isinstance(value, bool))
    if not isinstance(kind, type):  # a type that only a checker knows
        return True
    if issubclass(kind, Mapping):
        return isinstance(value, DictConfig) and all(_fits(each, parts[1]) for each in value.values())
    return issubclass(kind, Sequence) and isinstance(value, ListConfig) and all(_fits(each, parts[0]) for each in value)


def _words(hint: Any) -> list[str]:
    """What to ask for, one for each type that would do."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return [word for part in parts for word in _words(part)]
    if kind is Literal:
        return list(map(str, parts))
    if kind in _TAKES:
        return [_TAKES[kind][1]]
    if issubclass(kind, Mapping):
        return [f"{{NAME: {' or '.join(_words(parts[1]))}, ...}}"]
    if issubclass(kind, Sequence):
        return [f"[{' or '.join(_words(parts[0]))}, ...]"]
    # of other packages' own types, such as a Tensor for a number, nobody thinks here
    return [f"a {kind.__name__} (_target_: ...)"] if kind.__module__.startswith("famseg.") else []
