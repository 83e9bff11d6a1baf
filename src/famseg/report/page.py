"""The report as one HTML file that needs nothing else: figures, plotly.js and style are inside."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from famseg.report.charts import Chart
from famseg.report.gaps import device
from famseg.report.interactive import figure
from famseg.report.layout import DASH, Table
from famseg.report.markup import groups
from famseg.report.settings import has_folds
from famseg.report.study import Study
from famseg.study.cells import Cell


def render(study: Study, examples: Path | None, written: str) -> str:
    """The page.

    Args:
        study: what it shows.
        examples: the picture of example images, if there is one.
        written: time and version of the report.
    """
    environment = Environment(
        loader=PackageLoader("famseg.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    template = environment.get_template("page.html.j2")
    return template.render(
        study=study,
        title=study.folder.resolve().name,
        written=written,
        summary=_summary(study),
        groups=groups,
        rows=lambda table: list(zip(table.rows, table.numbers(), strict=True)),
        tables=[(table, _charts(study, table), study.claims.get(table.key, ())) for table in study.tables],
        charts=[chart for chart in study.charts if not _of_table(chart, study.tables)],
        figures=_figures(study.charts),
        examples=base64.b64encode(examples.read_bytes()).decode() if examples else None,
        plotly=Markup(get_plotlyjs()),
        runs=[_run(study, cell) for cell in study.cells],
    )


def _summary(study: Study) -> dict[str, str]:
    records = study.records
    revisions = sorted({str(record.cell.environment.get("revision") or "unknown") for record in records})
    seeds = sorted({record.seed for record in records})
    folds = sorted({record.fold for record in records if record.fold is not None}) if has_folds(records) else []
    return {
        "finished runs": f"{len(records)} of {len(study.cells)}",
        "settings": str(len(study.settings)),
        "seeds": ", ".join(map(str, seeds)),
        **({"folds": ", ".join(map(str, folds))} if folds else {}),
        "test images": " or ".join(map(str, _test_images(study))),
        "device": ", ".join(sorted({device(record.cell.environment) for record in records})),
        "revision": ", ".join(revisions),
    }


def _test_images(study: Study) -> list[int]:
    """How many images a setting was tested on, its folds together; several numbers where they differ."""
    if has_folds(study.records):
        return sorted({len({n for r in s.records for n in r.images.names}) for s in study.settings if s.records})
    return sorted({len(record.images.names) for record in study.records})


def _of_table(chart: Chart, tables: Sequence[Table]) -> bool:
    return any(chart.key in (f"{table.key}-classes", f"{table.key}-differences") for table in tables)


def _charts(study: Study, table: Table) -> list[Chart]:
    keys = (f"{table.key}-classes", f"{table.key}-differences")
    return [chart for chart in study.charts if chart.key in keys]


def _figures(charts: Sequence[Chart]) -> Markup:
    content = json.dumps({chart.key: figure(chart) for chart in charts}, allow_nan=False)
    return Markup(content.replace("<", "\\u003c"))  # nothing in it can end the script


def _run(study: Study, cell: Cell) -> dict[str, str]:
    record = next((record for record in study.records if record.cell is cell), None)
    return {
        "cell": cell.name,
        "state": cell.state,
        "seed": str(cell.config.get("seed", DASH)),
        **({"fold": str((cell.config.get("data") or {}).get("fold", DASH))} if has_folds(study.records) else {}),
        "mIoU %": f"{100 * record.scores['miou']:.2f}" if record else DASH,
        "minutes": f"{record.seconds / 60:.1f}" if record else DASH,
        "revision": str(cell.environment.get("revision") or DASH),
        "problem": cell.problem,
    }
