"""The commands about studies, folders of runs: study, report, dashboard."""

import argparse
import sys
from pathlib import Path
from typing import Any

from famseg.commands.arguments import price


def add_study_commands(commands: Any) -> None:
    """Add study, report and dashboard to the parser's commands."""
    _add_study(commands)
    _add_report(commands)
    _add_dashboard(commands)


def _add_study(commands: Any) -> None:
    study = commands.add_parser("study", help="where a sweep stands")
    status = study.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "status", help="a line per cell: state, epochs, best score, time", description="Print where a study stands."
    )
    status.add_argument("folder", type=Path, metavar="DIR", help="a study's folder, such as runs/table2")
    status.set_defaults(command=_study_status)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="tables, figures and tests of a study",
        description="Write DIR/report/: index.html, tables.md, tables.tex, cells.csv, and every figure as PNG and SVG.",
        epilog="exit code 1: written, but cells have failed, are not finished, or left half-written files",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of a study, such as runs/table2")
    report.add_argument("--price", type=price, metavar="MONEY", help="of an hour of the device, for the cost per run")
    report.add_argument("--no-images", action="store_true", help="no example images, which need checkpoints and data")
    report.set_defaults(command=_report)


def _add_dashboard(commands: Any) -> None:
    dashboard = commands.add_parser(
        "dashboard",
        help="a wandb workspace and report page of the studies",
        description="Make the workspace and the report page of a wandb project whose runs were uploaded (wandb sync).",
    )
    dashboard.add_argument("--entity", required=True, metavar="NAME", help="wandb's user or team")
    dashboard.add_argument("--project", required=True, metavar="NAME", help="wandb's project")
    dashboard.add_argument("--study", metavar="NAME", help="show the runs of this study only")
    dashboard.add_argument("--dry-run", action="store_true", help="say what would be made, without the network")
    dashboard.set_defaults(command=_dashboard)


def _study_status(options: argparse.Namespace) -> int:
    from famseg.study.cells import read_study
    from famseg.study.status import status_table

    print(status_table(options.folder, read_study(options.folder)))
    return 0


def _report(options: argparse.Namespace) -> int:
    from famseg.report.write import write_report

    study = write_report(options.folder, options.price, images=not options.no_images)
    for line in study.faults:
        print(f"famseg: {line}", file=sys.stderr)
    finished = f"{len(study.records)} of {len(study.cells)} cells"
    print(f"{finished}: {options.folder / 'report' / 'index.html'}, tables.md, tables.tex, figures")
    return 1 if study.faults else 0


def _dashboard(options: argparse.Namespace) -> int:
    from famseg.dashboard import publish

    for line in publish(options.entity, options.project, options.study, options.dry_run):
        print(line)
    return 0
