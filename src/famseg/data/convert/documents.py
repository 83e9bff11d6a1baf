"""JSON files of other tools, with errors that name what is wrong."""

import json
from pathlib import Path
from typing import Any

from famseg.errors import UserError


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """An object of a JSON file.

    Args:
        path: The file.
        *keys: What the object must have.

    Raises:
        UserError: It cannot be read, is no JSON object, or lacks a key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Check the path.") from None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON file ({error}). Export it again.") from None
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(f"{path}: has no {missing[0]!r}. Export it again, or check the format.")
    return dict(content)
