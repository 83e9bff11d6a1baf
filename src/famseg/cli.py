"""The command `famseg`: everything beside training and evaluation, which are train.py and eval.py."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import famseg
from famseg.data.cli import add_data_commands
from famseg.errors import UserError

# Each command imports what it needs when it runs: `famseg --help` waits for nothing.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None: that of this process.

    Returns:
        0, 1 where a check found something or a file could not be used, 2 for a mistake that the user can mend, 130
        after Ctrl-C.
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
    add_data_commands(commands.add_parser("data", help="check, download, import, export, split, look at data sets"))
    _add_predict(commands)
    _add_serve(commands)
    _add_export(commands)
    _add_cost(commands)
    _add_study(commands)
    _add_report(commands)
    _add_dashboard(commands)
    return parser


def _add_study(commands: Any) -> None:
    study = commands.add_parser("study", help="where a sweep stands")
    status = study.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "status", help="a line per cell: state, epochs, best score, time", description="Print where a study stands."
    )
    status.add_argument("folder", type=Path, metavar="DIR", help="a study's folder, such as runs/table2")
    status.set_defaults(command=_study_status)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="masks, overlays and millimetres of images",
        description="Segment images and measure head and femur. Research use only; not a medical device.",
        epilog="example: famseg predict scans/ --checkpoint runs/LAST --spacing 0.12 --out results",
    )
    predict.add_argument("paths", nargs="+", metavar="PATH", help="PNG, JPEG, TIFF or DICOM files, folders, globs")
    predict.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    _add_network(predict)
    predict.add_argument(
        "--spacing", metavar="MM|CSV", help="mm per pixel of images without one, or a table file,mm_per_pixel"
    )
    predict.add_argument("--weeks", metavar="WEEKS", help="known gestational age for centiles: 20.5 or 20+3")
    predict.add_argument("--batch", type=_count, default=8, metavar="N", help="images at a time (8)")
    predict.add_argument(
        "--hc18-submission", type=Path, metavar="FILE", help="ellipses as the HC18 challenge takes them"
    )
    predict.set_defaults(command=_predict)


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="a page to drop images on",
        description="Show measurements in a browser, on this computer only. Research use only; not a medical device.",
    )
    _add_network(serve)
    serve.add_argument("--port", type=_count, default=7860, metavar="N", help="port of the page (7860)")
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; the default is this computer only"
    )
    serve.set_defaults(command=_serve)


def _add_report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="tables, figures and tests of a study",
        description="Write DIR/report/: index.html, tables.md, tables.tex, cells.csv, and every figure as PNG and SVG.",
        epilog="exit code 1: written, but cells have failed, are not finished, or left half-written files",
    )
    report.add_argument("folder", type=Path, metavar="DIR", help="folder of a study, such as runs/table2")
    report.add_argument("--price", type=float, metavar="MONEY", help="of an hour of the device, for the cost per run")
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


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="a trained network as ONNX, TorchScript, PT2 or bare weights",
        description="Write a network as a file for other programs, and run that file beside the network as a check.",
        epilog="example: famseg export runs/LAST --format onnx --size 256 384 --images scans/ --out famseg.onnx",
    )
    export.add_argument("checkpoint", metavar="NETWORK", help="a run's folder, a checkpoint, or a shipped name")
    export.add_argument("--format", required=True, choices=["onnx", "torchscript", "pt2", "safetensors"])
    export.add_argument("--out", required=True, type=Path, metavar="FILE", help="file to write")
    export.add_argument(
        "--size", type=_count, nargs=2, metavar=("H", "W"), help="only images of this size: seconds instead of minutes"
    )
    export.add_argument(
        "--images", nargs="+", default=[], metavar="PATH", help="images to check with (two of the phantom)"
    )
    export.set_defaults(command=_export)


def _add_cost(commands: Any) -> None:
    cost = commands.add_parser(
        "cost",
        help="parameters, multiply-adds and memory of every model",
        description="Count what Eq. (1)-(5) of the paper count, then what every model of conf/model costs.",
        epilog="example: famseg cost --models famseg_t,famseg_n --size 256 384 --markdown cost.md",
    )
    cost.add_argument("--models", metavar="NAMES", help="options of conf/model, separated by commas (all)")
    cost.add_argument("--size", type=_count, nargs=2, default=[512, 512], metavar=("H", "W"), help="image (512 512)")
    cost.add_argument("--kernel", type=_count, default=7, metavar="K", help="of the convolutions in Eq. (1)-(4) (7)")
    cost.add_argument("--map", type=_count, nargs=2, metavar=("H", "W"), help="their map (a quarter of --size)")
    cost.add_argument("--channels", type=_count, default=1, metavar="C", help="of their map (1, as in the paper)")
    cost.add_argument("--csv", type=Path, metavar="FILE", help="write the models' numbers, unrounded")
    cost.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    cost.set_defaults(command=_cost)


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        action="extend",
        metavar="NETWORK",
        help="a run's folder, a checkpoint, a file of famseg export (onnx, safetensors), or a shipped network's name; "
        "several are averaged",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (auto)")
    command.add_argument(
        "--backend",
        choices=["auto", "torch", "onnxruntime", "openvino"],
        default="auto",
        help="what runs the network: torch a checkpoint, the others an ONNX file (auto)",
    )
    command.add_argument(
        "--tta", choices=["none", "flip"], default="none", help="flip: average with the mirrored image"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _study_status(options: argparse.Namespace) -> int:
    from famseg.study.cells import read_study
    from famseg.study.status import status_table

    print(status_table(options.folder, read_study(options.folder)))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from famseg.findings import parse_weeks
    from famseg.hc18_submission import write_submission
    from famseg.predict import Job, load_members, predict
    from famseg.scans import find_files, spacings

    files = find_files(options.paths, but_not_in=options.out)
    weeks = parse_weeks(options.weeks) if options.weeks else math.nan
    spacing = spacings(options.spacing)
    members = load_members(options.checkpoint, options.device, options.tta == "flip", options.backend)
    results = predict(files, Job(members, options.out, spacing, weeks), options.batch)
    failures = [result.error for result in results if result.error]
    if options.hc18_submission:
        failures += write_submission(options.hc18_submission, results)
    for failure in failures:
        print(f"famseg: {failure}", file=sys.stderr)
    good = sum(not result.error for result in results)
    print(f"{good} of {len(results)} images: {options.out / 'biometry.csv'} (research use only, not a medical device)")
    return 1 if failures else 0


def _serve(options: argparse.Namespace) -> int:
    from famseg.serve import serve

    flip = options.tta == "flip"
    serve(options.checkpoint, options.device, flip, options.host, options.port, options.backend)
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


def _export(options: argparse.Namespace) -> int:
    from famseg.export import export
    from famseg.scans import find_files, read_scan

    files = find_files(options.images) if options.images else []
    images = [(file.name, read_scan(file, lambda _: math.nan).image) for file in files]
    size = (options.size[0], options.size[1]) if options.size else None
    done = export(options.checkpoint, options.format, options.out, size, images, lambda text: print(text, flush=True))
    print(done.message)
    return 0 if done.passed else 1


def _cost(options: argparse.Namespace) -> int:
    from famseg.cost import write_report

    names = options.models.split(",") if options.models else None
    plane = options.map or [max(1, side // 4) for side in options.size]
    write_report(names, options.size, (options.kernel, plane, options.channels), options.csv, options.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
