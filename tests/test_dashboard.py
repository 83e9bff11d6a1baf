import json

import pytest

from famseg import cli, dashboard

pytest.importorskip("wandb_workspaces")
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.reports.v2 import interface


@pytest.fixture
def offline(monkeypatch):
    """wandb knows one project; whatever else asks for the network fails."""
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "UHJvamVjdDox"}})


def panels(content):
    """All panels of a serialised page, by title."""
    found, todo = {}, [content]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            if "viewType" in part:
                found[part["config"].get("chartTitle")] = part
            todo += part.values()
        elif isinstance(part, list):
            todo += part
    return found


def serialised(page):
    return json.loads(page._to_model().model_dump_json(by_alias=True, exclude_none=True))


def test_the_workspace_has_every_panel_grouped_by_setting():
    content = serialised(dashboard.build_workspace("team", "famseg", "table2"))
    assert (content["entity"], content["project"]) == ("team", "famseg")
    found = panels(content)
    loss = found["training loss"]["config"]
    assert (loss["metrics"], loss["xAxis"], loss["groupBy"], loss["groupArea"]) == (
        ["train/loss"],
        "epoch",
        "group",
        "minmax",
    )
    assert found["test IoU FL"]["config"]["metrics"] == ["test/iou_fl"]
    assert any(part["viewType"] == "Parallel Coordinates Plot" for part in found.values())
    assert any(part["viewType"] == "Media Browser" for part in found.values())
    assert "table2" in json.dumps(content)


def test_the_parallel_coordinates_name_the_options_as_wandb_stores_them():
    found = panels(serialised(dashboard.build_workspace("team", "famseg", None)))
    (plot,) = (part for part in found.values() if part["viewType"] == "Parallel Coordinates Plot")
    accessors = [column["accessor"] for column in plot["config"]["columns"]]
    assert accessors[:2] == ["config:choices.value.optimizer", "config:choices.value.scheduler"]
    assert accessors[-1] == "summary:test/miou"


def test_the_report_page_has_the_same_panels(offline):
    page = dashboard.build_report("team", "famseg", "table2")
    content = serialised(page)
    assert panels(content).keys() == panels(serialised(dashboard.build_workspace("team", "famseg", "table2"))).keys()
    assert page.title == "FAMSeg studies: table2"
    assert "table2" in json.dumps(content["spec"])


def test_panels_do_not_lie_on_each_other(offline):
    for grid in (block for block in dashboard.build_report("t", "p", None).blocks if isinstance(block, wr.PanelGrid)):
        places = [(p.layout.x, p.layout.y) for p in grid.panels]
        assert len(set(places)) == len(places)


def test_dry_run_prints_the_outline_without_the_network(capsys, monkeypatch):
    def fail(*_):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(interface, "_get_api", fail)
    assert cli.main(["dashboard", "--entity", "team", "--project", "famseg", "--study", "table2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for words in ("team/famseg", "table2", "train/loss", "test/iou_fl", "optimizer, scheduler", "val/overlays"):
        assert words in printed


def test_both_pages_are_saved(capsys, monkeypatch):
    saved = []
    for kind in (ws.Workspace, wr.Report):
        monkeypatch.setattr(kind, "save", lambda page: saved.append(type(page)) or page)
        monkeypatch.setattr(kind, "url", property(lambda page: f"https://example.org/{type(page).__name__}"))
    assert cli.main(["dashboard", "--entity", "team", "--project", "famseg"]) == 0
    assert saved == [ws.Workspace, wr.Report]
    assert capsys.readouterr().out.split() == ["https://example.org/Workspace", "https://example.org/Report"]


def test_wandb_that_refuses_is_one_sentence(capsys, monkeypatch):
    def refuse(_):
        raise ValueError("no such project")

    monkeypatch.setattr(ws.Workspace, "save", refuse)
    assert cli.main(["dashboard", "--entity", "team", "--project", "famseg"]) == 2
    printed = capsys.readouterr().err
    assert "team/famseg" in printed
    assert "no such project" in printed
    assert "wandb login" in printed


def test_without_the_package_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces", None)
    assert cli.main(["dashboard", "--entity", "a", "--project", "b"]) == 2
    assert "famseg[dashboard]" in capsys.readouterr().err
