"""What makes a cell: its resolved configuration, less where things lie and how they are shown."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

# Dotted keys that change no result. trainer.callbacks and trainer.logger repeat their groups.
NOT_PART = frozenset(
    {
        "output",
        "runs",
        "study",
        "resume",
        "retry",
        "logger",
        "callbacks.compilation",
        "data.num_workers",
        "data.cache",
        "data.cache_dir",
        "data.cache_share",
        "trainer.output",
        "trainer.callbacks",
        "trainer.logger",
        "trainer.progress",
        "trainer.save_every_s",
    }
)
# Keys that tell the repeats of a setting apart: its seeds, and its folds in a cross-validation.
REPEATS = frozenset({"seed", "data.seed", "callbacks.seeding.seed", "data.fold"})
# Beginnings of overrides that do not make another run of a command.
IGNORED = (
    "resume",
    "retry",
    "runs",
    "study",
    "trainer.progress",
    "trainer.save_every_s",
    "data.num_workers",
    "data.cache",
    "logger",
    "hydra.",
    "hydra/",
)
LONGEST = 120  # letters of a name, of the 255 that file systems have
ROOT = re.compile(r"data\.(sets\.[^.]+\.)*root")  # a data set may move; its folder's own name stays


def identity(config: Mapping[str, Any]) -> str:
    """Twelve letters that are the same for the same experiment, wherever it is run.

    Args:
        config: the resolved configuration, as in a run's config.yaml.
    """
    return _digest(_experiment(config, NOT_PART))


def setting(config: Mapping[str, Any]) -> str:
    """As `identity`, and the same for all seeds and folds."""
    return _digest(_experiment(config, NOT_PART | REPEATS))


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Value by dotted key of all that `setting` looks at: what may tell the settings of a study apart."""
    return dict(_leaves(_experiment(config, NOT_PART | REPEATS)))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Dotted keys in which two resolved configurations are not of the same experiment, those of few parts first."""
    parts = [dict(_leaves(_experiment(each, NOT_PART))) for each in (one, other)]
    keys = [key for key in {*parts[0], *parts[1]} if parts[0].get(key) != parts[1].get(key)]
    return sorted(keys, key=lambda key: (key.count("."), key))


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield key, node
        return
    for name, value in node.items():
        yield from _leaves(value, f"{key}.{name}" if key else name)


def _experiment(config: Mapping[str, Any], without: frozenset[str]) -> Any:
    """A configuration less some keys and the places of its files."""
    return _reduced(config, str(config.get("output", "")), "", without)


def _reduced(node: Any, output: str, key: str, without: frozenset[str]) -> Any:
    if isinstance(node, Mapping):
        paths = {str(name): f"{key}.{name}" if key else str(name) for name in node}
        return {
            str(name): _reduced(value, output, paths[str(name)], without)
            for name, value in node.items()
            if paths[str(name)] not in without
        }
    if isinstance(node, (list, tuple)):
        return [_reduced(value, output, key, without) for value in node]
    if isinstance(node, str):
        if output and (node == output or node.startswith(f"{output}/")):
            return node.removeprefix(output)  # the run's own folder, as callbacks know it
        return PurePath(node).name if ROOT.fullmatch(key) else node
    return node


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def varying(cells: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of every cell's overrides those that not all cells have, and the seed; all of a single cell's."""
    common = set(cells[0]).intersection(*cells) if len(cells) > 1 else set()
    return [[each for each in cell if each not in common or each.startswith("seed=")] for cell in cells]


def cell_name(overrides: Sequence[str], config: Mapping[str, Any]) -> str:
    """A folder's name: what the command line said, in short, and the beginning of the identity.

    Letters that need quotes in a shell or on Hydra's command line are replaced, so that `run=FOLDER` takes it.

    Args:
        overrides: the cell's overrides.
        config: its resolved configuration.
    """
    words = [_word(override) for override in overrides if _names(override, config)]
    text = "+".join(words)[:LONGEST].rstrip("+-_.")
    return f"{text or 'default'}+{identity(config)[:6]}"


def _names(override: str, config: Mapping[str, Any]) -> bool:
    key, _, value = override.lstrip("+~").partition("=")
    is_root = ROOT.fullmatch(key) is not None
    repeats_study = key == "experiment" and value == config.get("study")
    return not (override.lstrip("+~").startswith(IGNORED) or is_root or repeats_study)


def _word(override: str) -> str:
    key, _, value = override.lstrip("+~").partition("=")
    return "-".join(re.sub(r"[^\w.-]+", "_", part).strip("_") for part in (key.rpartition(".")[2], value))


def _name_in_hydra(*, _root_: DictConfig) -> str:
    overrides: Any = OmegaConf.to_container(_root_.hydra.overrides.task)
    return cell_name(overrides, resolved(_root_))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A composed configuration as config.yaml will hold it, with no folder yet.

    Args:
        config: with or without Hydra's own part.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with read_write(own), open_dict(own):
        own.output = ""
    plain: Any = OmegaConf.to_container(own, resolve=True)
    return dict(plain)


# `${cell_name:}` in conf/train.yaml
OmegaConf.register_new_resolver("cell_name", _name_in_hydra, replace=True)
