"""The commands `famseg data ...`. Each imports what it needs when it runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from famseg.errors import UserError

if TYPE_CHECKING:
    from famseg.data.convert.plan import Plan
    from famseg.data.datamodule import SegmentationDataModule


def add_data_commands(data: argparse.ArgumentParser) -> None:
    """Add check, download, split, stats, import and export to the command `data`."""
    commands = data.add_subparsers(required=True, metavar="COMMAND")
    _add_check(commands)
    _add_download(commands)
    _add_split(commands)
    _add_stats(commands)
    _add_import(commands)
    _add_export(commands)


def _add_check(commands: Any) -> None:
    check = commands.add_parser(
        "check",
        help="find bad inputs before training",
        description="Read every file of a data set and list what training would stumble over, with the mend.",
        epilog="example: famseg data check data=hc18 data.root=DIR",
    )
    _add_overrides(check)
    check.set_defaults(command=_check)


def _add_download(commands: Any) -> None:
    download = commands.add_parser("download", help="fetch a public data set, checked and resumable")
    sets = download.add_subparsers(required=True, metavar="SET")
    for name, what in {
        "hc18": "999 fetal heads with outlines and millimetres (Zenodo 1327317, CC BY 4.0)",
        "femur": "fetal femora with both end points (doi 10.5522/04/30819911; images: Zenodo 3904280, CC BY 4.0, 2 GB)",
    }.items():
        command = sets.add_parser(
            name,
            help=what,
            description=f"Fetch {what} into DIR. What is there is not fetched again; a broken transfer goes on.",
        )
        command.add_argument("destination", type=Path, metavar="DIR")
        command.set_defaults(command=_download, set=name)


def _add_split(commands: Any) -> None:
    split = commands.add_parser(
        "split",
        help="write a split to a file that can be published",
        description="Write file,group,split for every image; data.split_file=FILE trains with it.",
        epilog="example: famseg data split data=hc18 data.root=DIR data.fold=2 data.stratify=true --out fold2.csv",
    )
    _add_overrides(split)
    split.add_argument("--out", required=True, type=Path, metavar="FILE", help="CSV to write")
    split.set_defaults(command=_split)


def _add_stats(commands: Any) -> None:
    stats = commands.add_parser(
        "stats",
        help="what a set consists of, with pictures, and copies across splits",
        description="Table and page of sizes, pixel sizes and intensities per split; equal and nearly equal images.",
        epilog="example: famseg data stats data=hc18 data.root=DIR --out stats",
    )
    _add_overrides(stats)
    stats.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the page and tables")
    stats.set_defaults(command=_stats)


def _add_import(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="DICOM, COCO, LabelMe, CVAT and nnU-Net to a folder to train on",
        description="Convert into DIR/images, DIR/labels, spacing.csv and classes.csv: data=folder data.root=DIR.",
        epilog="example: famseg data import coco instances.json --images scans --rename head=FB femur=FL --out own",
    )
    command.add_argument("format", choices=["dicom", "coco", "labelme", "cvat", "nnunet"])
    command.add_argument("path", type=Path, metavar="PATH", help="the folder, or COCO's JSON file")
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="new folder")
    command.add_argument("--images", type=Path, metavar="DIR", help="where the images of coco or cvat lie")
    command.add_argument("--table", type=Path, metavar="FILE", help="CSV of file,mm_per_pixel,subject")
    command.add_argument("--rename", nargs="+", default=[], metavar="NAME=CLASS", help="such as head=FB femur=FL")
    command.set_defaults(command=_import)


def _add_export(commands: Any) -> None:
    command = commands.add_parser(
        "export",
        help="write a set and its split for nnU-Net",
        description="Write nnU-Net's raw layout: train and val as imagesTr, test as imagesTs, and splits_final.json.",
        epilog="example: famseg data export data=hc18 data.root=DIR --format nnunet --out nnUNet_raw/Dataset018_HC18",
    )
    _add_overrides(command)
    command.add_argument("--format", required=True, choices=["nnunet"])
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="new folder, DatasetNNN_NAME")
    command.set_defaults(command=_export)


def _add_overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument("overrides", nargs="+", metavar="data=NAME data.KEY=VALUE", help="as for train.py")


def _datamodule(overrides: list[str]) -> "SegmentationDataModule":
    """The data set that overrides such as `data=hc18 data.root=DIR` describe."""
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from omegaconf.errors import MissingMandatoryValue

    from famseg.configuration import composed, without_value
    from famseg.value_types import require_types

    if bare := [text for text in overrides if "=" not in text and not text.startswith("~")]:
        raise UserError(f"{bare[0]}: give KEY=VALUE as for train.py, such as data=folder data.root={bare[0]}.")
    config = composed("data_check", overrides)
    require_types(config)
    try:
        data: SegmentationDataModule = instantiate(config.data)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise
    except MissingMandatoryValue as error:
        raise UserError(without_value(error)) from None
    return data


def _check(options: argparse.Namespace) -> int:
    from famseg.data.check import check_report

    try:
        data = _datamodule(options.overrides)
    except UserError:
        # if a split alone cannot be made, the files come first: their mend, such as missing labels, is the nearer one
        print(check_report(_datamodule([*options.overrides, "data.fold=all"]).source)[0], flush=True)
        raise
    text, code = check_report(data)
    print(text)
    return code


def _split(options: argparse.Namespace) -> int:
    data = _datamodule(options.overrides)
    data.write_split(options.out)
    print(", ".join(f"{split} {len(names)}" for split, names in data.splits.items()) + f" images: {options.out}")
    return 0


def _stats(options: argparse.Namespace) -> int:
    from famseg.data.stats import stats, text_table, write_stats

    data = _datamodule(options.overrides)
    found = stats(data)
    page = write_stats(options.out, found, data)
    print(text_table(found.rows), *(pair for pair in found.leaks), sep="\n")
    print(f"{len(found.leaks)} copies straddle splits, {len(found.pairs)} in all. Page: {page}")
    return 1 if found.leaks else 0


def _import(options: argparse.Namespace) -> int:
    from famseg.data.convert.plan import with_table, write_folder

    plan = _plan(options)
    if options.table:
        plan = with_table(plan, options.table)
    problems = write_folder(plan, options.out)
    for problem in problems:
        print(f"{'error  ' if problem.fatal else 'warning'}  {problem}")
    errors = sum(problem.fatal for problem in problems)
    print(f"{errors} errors. Next: famseg data check data=folder data.root={options.out}")
    return 1 if errors else 0


def _plan(options: argparse.Namespace) -> "Plan":
    """What there is to import."""
    if options.images and options.format not in ("coco", "cvat"):
        raise UserError(f"--images: {options.format} knows where its images are. Leave it out.")
    if bad := [pair for pair in options.rename if "=" not in pair]:
        raise UserError(f"--rename {bad[0]}: give NAME=CLASS, such as head=FB.")
    rename = dict(pair.split("=", 1) for pair in options.rename)
    if options.format == "dicom":
        from famseg.data.convert.dicom_folder import read_dicom_folder

        return read_dicom_folder(options.path)
    if options.format == "coco":
        from famseg.data.convert.coco import read_coco

        return read_coco(options.path, options.images, rename)
    if options.format == "labelme":
        from famseg.data.convert.labelme import read_labelme

        return read_labelme(options.path, rename)
    if options.format == "cvat":
        from famseg.data.convert.cvat import read_cvat

        return read_cvat(options.path, options.images, rename)
    from famseg.data.convert.nnunet import read_nnunet

    return read_nnunet(options.path, rename)


def _export(options: argparse.Namespace) -> int:
    from famseg.data.convert.nnunet import export_nnunet

    folder = export_nnunet(_datamodule(options.overrides), options.out)
    print(f"{folder}. Copy its splits_final.json into nnU-Net's preprocessed folder of the set to train on this split.")
    return 0


def _download(options: argparse.Namespace) -> int:
    from famseg.data.download import download_femur, download_hc18

    {"hc18": download_hc18, "femur": download_femur}[options.set](options.destination)
    root = options.destination
    print(f"The set is in {root}. Next: famseg data check data={options.set} data.root={root}")
    return 0
