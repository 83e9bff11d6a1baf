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
    return parser


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


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoint",
        required=True,
        nargs="+",
        action="extend",
        metavar="RUN_OR_FILE",
        help="a run's folder, a checkpoint or an exported ONNX file; several are averaged",
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


if __name__ == "__main__":
    sys.exit(main())
