"""Writes the report of a study into its folder."""

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import famseg
from famseg.files import write_atomically, write_table
from famseg.report.examples import draw_examples, predict_examples
from famseg.report.markup import latex, markdown
from famseg.report.page import render
from famseg.report.records import Record
from famseg.report.settings import has_folds
from famseg.report.static import write_charts, write_figure
from famseg.report.study import OUT, Study, load_study


def write_report(folder: Path, price: float | None = None, images: bool = True) -> Study:
    """Write `report/` with `index.html`, `tables.md`, `tables.tex`, `cells.csv` and every figure as PNG and SVG.

    Figures of an earlier report that this one does not have are removed; example images stay where none are drawn.

    Args:
        folder: the study's folder.
        price: of an hour of its device; None leaves money out.
        images: whether to draw example images, which needs the checkpoints and the data.

    Returns:
        What was written down.

    Raises:
        UserError: there is nothing to report, or the folder cannot be written.
    """
    study = load_study(folder, price)
    out = folder / OUT
    remarks: list[str] = []
    examples = predict_examples(study.settings, study.names, remarks) if images else None
    study = replace(study, remarks=[*study.remarks, *remarks])
    _remove_figures(out, {"examples", *(chart.key for chart in study.charts)})
    if examples:
        write_figure(out, "examples", draw_examples(examples))
    write_charts(out, study.charts)
    _write(out / "tables.md", _markdown(study))
    _write(out / "tables.tex", "% needs booktabs\n" + "\n".join(latex(table) for table in study.tables))
    write_table(out / "cells.csv", [_line(study, record) for record in study.records])
    written = f"Written by famseg {famseg.__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    _write(out / "index.html", render(study, out / "examples.png" if examples else None, written))
    return study


def _remove_figures(out: Path, keep: Collection[str]) -> None:
    for path in (*out.glob("*.png"), *out.glob("*.svg")):
        if path.stem not in keep:
            path.unlink()


def _markdown(study: Study) -> str:
    parts = [f"# {study.folder.resolve().name}\n"]
    for table in study.tables:
        parts.append(markdown(table))
        if claims := study.claims.get(table.key):
            parts.append("".join(f"- {claim.sentence()}\n" for claim in claims))
    lines = [*study.faults, *study.remarks] or ["Nothing."]
    parts.append("## What is missing\n\n" + "".join(f"- {line}\n" for line in lines))
    return "\n".join(parts)


def _line(study: Study, record: Record) -> dict[str, object]:
    setting = next(setting for setting in study.settings if record in setting.records)
    return {
        "cell": record.cell.name,
        "setting": study.names[id(setting)],
        **setting.differs,
        "seed": record.seed,
        **({"fold": record.fold} if has_folds(study.records) else {}),
        "revision": record.cell.environment.get("revision"),
        "seconds": record.seconds,
        "images_per_s": record.images_per_s,
        **record.scores,
    }


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text)
