"""What makes a cell: its resolved configuration, less where things lie and how they are shown."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

# Dotted keys that change no result. trainer.callbacks and trainer.logger repeat their groups.
NOT_PART = frozenset(
    {
        "output",
        "runs",
        "study",
        "resume",
        "retry",
        "logger",
        "data.num_workers",
        "trainer.output",
        "trainer.callbacks",
        "trainer.logger",
        "trainer.progress",
    }
)
SEEDS = frozenset({"seed", "data.seed", "callbacks.seeding.seed"})
FOLDERS = frozenset({"data.root"})  # a data set may move; its own name stays


def identity(config: Mapping[str, Any]) -> str:
    """Twelve letters that are the same for the same experiment, wherever it is run.

    Args:
        config: the resolved configuration, as in a run's config.yaml.
    """
    return _digest(_reduced(config, str(config.get("output", "")), "", NOT_PART))


def setting(config: Mapping[str, Any]) -> str:
    """As `identity`, and the same for all seeds."""
    return _digest(_reduced(config, str(config.get("output", "")), "", NOT_PART | SEEDS))


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
        text = PurePath(node).name if key in FOLDERS else node
        return text.removeprefix(output) if output else text  # the run's own folder, as callbacks know it
    return node


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
