"""The commands that use a trained network: predict, serve, export."""

import argparse
import math
import signal
import sys
from pathlib import Path
from typing import Any

from famseg.commands.arguments import count, port
from famseg.errors import UserError
from famseg.signals import taken


def add_network_commands(commands: Any) -> None:
    """Add predict, serve and export to the parser's commands."""
    _add_predict(commands)
    _add_serve(commands)
    _add_export(commands)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser(
        "predict",
        help="masks, overlays and millimetres of images",
        description="Segment images and measure head and femur. Research use only; not a medical device.",
        epilog="example: famseg predict scans/ --checkpoint runs/LAST --spacing 0.12 --out results",
    )
    predict.add_argument("paths", nargs="+", metavar="PATH", help="PNG, JPEG, TIFF or DICOM files, folders, globs")
    predict.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    predict.add_argument("--overwrite", action="store_true", help="remove what an earlier prediction wrote to --out")
    _add_network(predict)
    predict.add_argument(
        "--spacing", metavar="MM|CSV", help="mm per pixel of images without one, or a table file,mm_per_pixel"
    )
    predict.add_argument("--weeks", metavar="WEEKS", help="known gestational age for centiles: 20.5 or 20+3")
    predict.add_argument("--batch", type=count, default=8, metavar="N", help="images at a time (8)")
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
    serve.add_argument("--port", type=port, default=7860, metavar="N", help="port of the page (7860)")
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on; the default is this computer only"
    )
    serve.set_defaults(command=_serve)


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
        "--size", type=count, nargs=2, metavar=("H", "W"), help="only images of this size: seconds instead of minutes"
    )
    export.add_argument(
        "--images", nargs="+", default=[], metavar="PATH", help="images to check with (two of the phantom)"
    )
    export.set_defaults(command=_export)


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


def _end(number: int, _: object) -> None:
    """SIGTERM, as from a queue whose time is over, ends the process as Ctrl-C does: what was measured is written."""
    sys.exit(128 + number)


def _predict(options: argparse.Namespace) -> int:
    from famseg.prediction.earlier import TABLE, earlier_results, remove
    from famseg.prediction.findings import parse_weeks
    from famseg.prediction.hc18_submission import write_submission
    from famseg.prediction.predict import Job, load_members, predict
    from famseg.prediction.scans import find_files
    from famseg.prediction.spacing import spacings

    files = find_files(options.paths, but_not_in=options.out)
    earlier = earlier_results(options.out, options.overwrite, files)
    if options.hc18_submission and options.hc18_submission.exists() and not options.overwrite:
        raise UserError(
            f"--hc18-submission {options.hc18_submission}: is there already. Choose another, or --overwrite."
        )
    weeks = parse_weeks(options.weeks) if options.weeks else math.nan
    spacing, warnings = spacings(options.spacing, files)
    for warning in warnings:
        print(f"famseg: {warning}", file=sys.stderr)
    members = load_members(options.checkpoint, options.device, options.tta == "flip", options.backend)
    remove(options.out, earlier)
    with taken(_end, [signal.SIGTERM]):
        results = predict(files, Job(members, options.out, spacing, weeks), options.batch)
    failures = [result.error for result in results if result.error]
    if options.hc18_submission:
        failures += write_submission(options.hc18_submission, results)
    for failure in failures:
        print(f"famseg: {failure}", file=sys.stderr)
    good = sum(not result.error for result in results)
    print(f"{good} of {len(results)} images: {options.out / TABLE} (research use only, not a medical device)")
    return 1 if failures else 0


def _serve(options: argparse.Namespace) -> int:
    from famseg.prediction.serve import serve

    flip = options.tta == "flip"
    serve(options.checkpoint, options.device, flip, options.host, options.port, options.backend)
    return 0


def _export(options: argparse.Namespace) -> int:
    from famseg.export.write import export
    from famseg.prediction.scans import find_files, read_scan

    files = find_files(options.images) if options.images else []
    images = [(file.name, read_scan(file, lambda _: math.nan).image) for file in files]
    size = (options.size[0], options.size[1]) if options.size else None
    done = export(options.checkpoint, options.format, options.out, size, images, lambda text: print(text, flush=True))
    print(done.message)
    return 0 if done.passed else 1
