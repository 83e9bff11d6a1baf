"""The configuration outside of train.py and eval.py: where `conf/` lies, and composing a group by overrides."""

from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

import famseg
from famseg.errors import UserError


def folder() -> Path:
    """The folder `conf/`: beside `src/` in a checkout, inside the package when installed from a wheel."""
    package = Path(famseg.__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration `name` with overrides as on the command line.

    Raises:
        UserError: an option or a key that does not exist, with Hydra's words.
    """
    try:
        with initialize_config_dir(str(folder().resolve()), version_base="1.3"):
            return compose(name, list(overrides))
    except OverrideParseException as error:
        key, _, value = error.override.partition("=")
        if not value or value[0] in "[{'\"":
            raise UserError(str(error)) from error
        mend = f"Quote the value for Hydra, and all for the shell: \"{key}='{value}'\"."
        raise UserError(f"{error.override}: holds letters or signs that Hydra does not read. {mend}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error


def without_value(error: MissingMandatoryValue) -> str:
    """What to say of a key that the user must give and did not."""
    return f"{error.full_key} has no value. Give it: {error.full_key}=..."
