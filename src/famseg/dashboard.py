"""The wandb workspace and report page of a project: Fig. 5, scores per class, optimizer against decay, images."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from famseg.errors import UserError

log = logging.getLogger(__name__)

NAME = "FAMSeg studies"
CLASSES = ("BG", "FL", "FB")
_SECTIONS = (
    ("Training (the paper's Fig. 5)", "Loss and validation, the mean over the runs of a setting."),
    ("Scores", "On the test split, the mean over the runs of a setting."),
    ("Optimizer and decay", "Every run is a line from its options to its score."),
    ("Images", "Validation while it learns, best and worst test images; prediction and truth are layers to switch."),
)


def publish(entity: str, project: str, study: str | None, dry_run: bool) -> Iterator[str]:
    """Make the workspace and the report page, or say what they would be.

    Args:
        entity: wandb's user or team.
        project: wandb's project.
        study: whose runs are shown; None: all.
        dry_run: describe them, without the network.

    Yields:
        Lines for the terminal: an outline, or the addresses.

    Raises:
        UserError: wandb-workspaces is not installed, or wandb cannot be reached.
    """
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise UserError('famseg dashboard needs wandb-workspaces: pip install "famseg[dashboard]".') from error
    if dry_run:
        runs = f"runs of {study}" if study else "all runs"
        yield f"workspace {NAME!r} and a report page of that name in {entity}/{project}, {runs}:"
        yield from _outline()
        return
    try:
        yield build_workspace(entity, project, study).save().url
        yield build_report(entity, project, study).save().url
    except Exception as error:  # wandb raises a dozen types for networks, keys and rights
        raise UserError(
            f"wandb did not take the dashboard of {entity}/{project} ({type(error).__name__}: {error}). Log in with "
            "`wandb login`, check the names, or look at it with --dry-run."
        ) from error


def build_workspace(entity: str, project: str, study: str | None) -> Any:
    """The workspace: a section of panels for each question, runs grouped by setting."""
    import wandb_workspaces.workspaces as ws

    filters = [ws.Config("study") == study] if study else []
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[
            ws.Section(name=name, panels=panels, is_open=True)
            for (name, _), panels in zip(_SECTIONS, panel_groups(), strict=True)
        ],
        settings=ws.WorkspaceSettings(x_axis="epoch"),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")], filters=filters),
    )


def build_report(entity: str, project: str, study: str | None) -> Any:
    """The report page: the same panels with a sentence each."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for (name, text), panels in zip(_SECTIONS, panel_groups(), strict=True):
        filters = f"Config('study') = '{study}'" if study else ""
        runset = wr.Runset(entity, project, name=study or "all studies", filters=filters, groupby=["group"])
        blocks += [wr.H1(name), wr.P(text), wr.PanelGrid(runsets=[runset], panels=panels)]
    title = f"{NAME}: {study}" if study else NAME
    return wr.Report(entity=entity, project=project, title=title, blocks=blocks, width="fluid")


def panel_groups() -> list[list[Any]]:
    """The panels of each section; new ones at each call, since a page numbers its own."""
    import wandb_workspaces.reports.v2 as wr

    seeds = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
    curves = [
        wr.LinePlot(title=title, x="epoch", y=[metric], log_y=log_y, **seeds)
        for title, metric, log_y in (
            ("training loss", "train/loss", None),
            ("validation mIoU", "val/miou", None),
            ("learning rate", "lr", True),
        )
    ]
    scores = {"test mIoU": "test/miou", **{f"test IoU {name}": f"test/iou_{name.lower()}" for name in CLASSES}}
    scores |= {"HC error, mm": "test/hc_mae_mm", "HD95 FB, mm": "test/hd95_mm_fb"}
    bars = [wr.BarPlot(title=title, metrics=[metric], **seeds) for title, metric in scores.items()]
    names = ("optimizer", "scheduler", "switch", "model")
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(f"choices.{name}"), display_name=name) for name in names]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("test/miou"), display_name="test mIoU"))
    lines = [wr.ParallelCoordinatesPlot(title="optimizer x decay", columns=columns, layout=wr.Layout(w=24, h=12))]
    media = [
        wr.MediaBrowser(title=title, media_keys=[key], num_columns=4, layout=wr.Layout(w=24, h=12))
        for title, key in (("test images", "test/extremes"), ("validation images", "val/overlays"))
    ]
    return [curves, bars, lines, media]


def _outline() -> Iterator[str]:
    for (name, text), panels in zip(_SECTIONS, panel_groups(), strict=True):
        yield f"  {name}: {text}"
        for panel in panels:
            yield f"    {type(panel).__name__} {panel.title!r}: {', '.join(_shown(panel))}"


def _shown(panel: Any) -> Sequence[str]:
    """Names of what a panel shows."""
    for attribute in ("y", "metrics", "media_keys"):
        if getattr(panel, attribute, None):
            return [str(getattr(each, "name", each)) for each in getattr(panel, attribute)]
    return [str(column.display_name) for column in panel.columns]
