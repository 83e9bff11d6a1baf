"""All that a report says of a study, as values: read, grouped, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from famseg.errors import UserError
from famseg.report import gaps
from famseg.report.charts import Chart, class_scores, curves, differences, size_scores
from famseg.report.claims import Claim, make_claims
from famseg.report.cost import cost_table
from famseg.report.layout import Table
from famseg.report.loads import gpu_loads
from famseg.report.records import Record, read_record, told_apart
from famseg.report.settings import Setting, group_settings
from famseg.report.sizes import score_sizes, size_tables, with_sizes
from famseg.report.tables import build_tables
from famseg.study.cells import PLAN, Cell, is_cell, read_study
from famseg.study.watch import LOADS

OUT = "report"


@dataclass(frozen=True)
class Study:
    """A study, ready to be written down.

    Attributes:
        folder: where it lies.
        cells: all its cells.
        settings: its settings.
        names: id of a setting -> its name in tables and figures.
        tables: its tables; the last is time and cost.
        claims: table's key -> its comparisons.
        charts: its figures.
        faults: what is wrong: cells that failed or cannot be read, files that are half-written.
        remarks: what else a reader must know: what is missing from the paper's tables, different revisions.
    """

    folder: Path
    cells: Sequence[Cell]
    settings: Sequence[Setting]
    names: Mapping[int, str]
    tables: Sequence[Table]
    claims: Mapping[str, Sequence[Claim]]
    charts: Sequence[Chart]
    faults: Sequence[str]
    remarks: Sequence[str]

    @property
    def records(self) -> list[Record]:
        """The runs behind the numbers."""
        return [record for setting in self.settings for record in setting.records]


def load_study(folder: Path, price: float | None = None) -> Study:
    """Read a study and compare its settings.

    Args:
        folder: the study's folder.
        price: of an hour of its device; None leaves money out.

    Raises:
        UserError: no such folder, no cell in it, or none that has finished.
    """
    cells = read_study(folder)
    if is_cell(folder):
        raise UserError(f"{folder}: is a single run. Give the folder of its study, {folder.parent}.")
    if not cells:
        raise UserError(f"{folder}: holds no runs. Give the folder of a study, such as runs/table2.")
    records, faults = _records(cells)
    faults = [*gaps.unfinished(cells), *faults]
    if not records:
        why = " ".join(faults[:3])
        raise UserError(f"{folder}: none of its {len(cells)} cells has finished with a test. {why}")
    grouped = with_sizes(group_settings(cells, records))
    tables = build_tables(grouped)
    names = _names(grouped, tables)
    order = list(names)
    settings = sorted(grouped, key=lambda setting: order.index(id(setting)))
    claims = {table.key: made for table in tables if (made := make_claims(table))}
    charts = [chart for table in tables if table.rows for chart in _table_charts(table, claims.get(table.key, []))]
    charts += [size_scores(scores, names) for scores in score_sizes(settings)]
    return Study(
        folder=folder,
        cells=cells,
        settings=settings,
        names=names,
        tables=[*tables, *size_tables(settings, names), cost_table(settings, names, price)],
        claims=claims,
        charts=[*charts, *curves(tables, settings, names), *gpu_loads(folder / LOADS)],
        faults=[*faults, *(remark for record in records for remark in record.remarks)],
        remarks=_remarks(folder, cells, records, settings, tables),
    )


def _records(cells: Sequence[Cell]) -> tuple[list[Record], list[str]]:
    """The cells that are done and can be used, the newest of repeats, and what is wrong with the others."""
    found: dict[str, Record] = {}
    faults = []
    done = [cell for cell in cells if cell.state == "done"]
    for cell in sorted(done, key=lambda cell: float(cell.status.get("updated") or 0)):
        if not isinstance(cell.config.get("seed"), int):
            problem = cell.problem or ("config.yaml: no seed" if cell.config else "no configuration")
            faults.append(f"{cell.name}: {problem}; it cannot be told what it is.")
            continue
        try:
            record = read_record(cell)
        except UserError as error:
            faults.append(str(error))
            continue
        if cell.identity in found:
            older = found[cell.identity].cell.name
            faults.append(f"{older}: the same experiment as {cell.name}, which is newer; the older is left out.")
        found[cell.identity] = record
    return told_apart(sorted(found.values(), key=lambda record: record.cell.name)), faults


def _names(settings: Sequence[Setting], tables: Sequence[Table]) -> dict[int, str]:
    """The name of each setting in the first table that has it, where that is its alone; in the order of the tables."""
    names: dict[int, str] = {}
    for table in tables:
        for row in table.rows:
            if row.setting is not None:
                names.setdefault(id(row.setting), row.name)
    taken = list(names.values())
    own = {id(setting): setting.name for setting in settings}
    return {key: name if taken.count(name) == 1 else own[key] for key, name in names.items()}


def _table_charts(table: Table, claims: Sequence[Claim]) -> list[Chart]:
    if table.key.endswith("-further") or not any(row.finished for row in table.rows):
        return []
    charts: list[Chart] = [class_scores(table)]
    if any(claim.found.pairs for claim in claims):
        charts.append(differences(table, claims))
    return charts


def _remarks(
    folder: Path, cells: Sequence[Cell], records: Sequence[Record], settings: Sequence[Setting], tables: Sequence[Table]
) -> list[str]:
    return [
        *gaps.absent_rows(table for table in tables if not table.key.endswith("-further")),
        *gaps.unequal_repeats(settings),
        *gaps.revisions(records),
        *gaps.devices(records),
        *gaps.unequal_tests(records),
        *gaps.foreign(folder, cells, (OUT, PLAN, LOADS, "multirun.yaml")),  # the last is Hydra's
    ]
