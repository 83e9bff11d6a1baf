"""The command `famseg`: everything beside training and evaluation, which are train.py and eval.py."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import famseg
from famseg.errors import UserError

# Each command imports what it needs when it runs: `famseg --help` waits for nothing.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None: that of this process.

    Returns:
        0, 1 where a check found something, 2 for a mistake that the user can mend, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except UserError as error:
        print(f"famseg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="famseg", description="FAMSeg: tools around train.py and eval.py.")
    parser.add_argument("--version", action="version", version=famseg.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_data(commands.add_parser("data", help="check and download data sets"))
    return parser


def _add_data(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="find bad inputs before training",
        description="Read every file of a data set and list what training would stumble over, with the mend.",
        epilog="example: famseg data check data=hc18 data.root=DIR",
    )
    check.add_argument("overrides", nargs="+", metavar="data=NAME data.KEY=VALUE", help="as for train.py")
    check.set_defaults(command=_check)
    download = commands.add_parser("download", help="fetch a public data set, checked and resumable")
    sets = download.add_subparsers(required=True, metavar="SET")
    hc18 = sets.add_parser(
        "hc18",
        help="999 fetal heads with outlines and millimetres (Zenodo 1327317, CC BY 4.0)",
        description="Fetch HC18 into DIR. What is already there is not fetched again; a broken transfer goes on.",
    )
    hc18.add_argument("destination", type=Path, metavar="DIR")
    hc18.set_defaults(command=_download_hc18)


def _check(options: argparse.Namespace) -> int:
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from famseg.configuration import composed
    from famseg.data.check import check_report

    config = composed("data_check", options.overrides)
    try:
        data = instantiate(config.data)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    text, code = check_report(data)
    print(text)
    return code


def _download_hc18(options: argparse.Namespace) -> int:
    from famseg.data.download import download_hc18

    download_hc18(options.destination)
    print(f"HC18 is in {options.destination}. Next: python train.py data=hc18 data.root={options.destination}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
