"""The command `famseg`: everything beside training and evaluation, which are train.py and eval.py."""

import argparse
import os
import sys
from collections.abc import Sequence

import famseg
from famseg import collector
from famseg.commands.costs import add_cost_command
from famseg.commands.data import add_data_commands
from famseg.commands.networks import add_network_commands
from famseg.commands.studies import add_study_commands
from famseg.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None: that of this process.

    Returns:
        0, 1 where a check found something, a file could not be used or nobody reads the output any more, 2 for a
        mistake that the user can mend, 130 after Ctrl-C.
    """
    if arguments is None:
        collector.relax()
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        if arguments is None:
            collector.spare_imports()  # now, since each command has imports of its own
    except UserError as error:
        print(f"famseg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough; Python would complain once more when it closes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="famseg", description="FAMSeg: tools around train.py and eval.py.")
    parser.add_argument("--version", action="version", version=famseg.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_data_commands(commands.add_parser("data", help="check, download, import, export, split, look at data sets"))
    add_network_commands(commands)
    add_cost_command(commands)
    add_study_commands(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
