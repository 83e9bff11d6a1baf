"""The command cost."""

import argparse
from pathlib import Path
from typing import Any

from famseg.commands.arguments import count


def add_cost_command(commands: Any) -> None:
    """Add cost to the parser's commands."""
    cost = commands.add_parser(
        "cost",
        help="parameters, multiply-adds and memory of every model",
        description="Count what Eq. (1)-(5) of the paper count, then what every model of conf/model costs.",
        epilog="example: famseg cost --models famseg_t,famseg_n --size 256 384 --markdown cost.md",
    )
    cost.add_argument("--models", metavar="NAMES", help="options of conf/model, separated by commas (all)")
    cost.add_argument("--size", type=count, nargs=2, default=[512, 512], metavar=("H", "W"), help="image (512 512)")
    cost.add_argument("--kernel", type=count, default=7, metavar="K", help="of the convolutions in Eq. (1)-(4) (7)")
    cost.add_argument("--map", type=count, nargs=2, metavar=("H", "W"), help="their map (a quarter of --size)")
    cost.add_argument("--channels", type=count, default=1, metavar="C", help="of their map (1, as in the paper)")
    cost.add_argument("--csv", type=Path, metavar="FILE", help="write the models' numbers, unrounded")
    cost.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    cost.set_defaults(command=_cost)


def _cost(options: argparse.Namespace) -> int:
    from famseg.cost import write_report

    names = options.models.split(",") if options.models else None
    plane = options.map or [max(1, side // 4) for side in options.size]
    write_report(names, options.size, (options.kernel, plane, options.channels), options.csv, options.markdown)
    return 0
