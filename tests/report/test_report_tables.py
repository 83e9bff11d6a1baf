import numpy as np
import pytest
from studies import THREE, write_cell

from famseg.report.layout import Column, Row, Table
from famseg.report.markup import latex, markdown
from famseg.report.study import load_study

NINE = {
    "unet": 0.955,
    "twins": 0.94,
    "swin": 0.957,
    "segnext_t": 0.95,
    "mobilenet_v3": 0.92,
    "convnext": 0.93,
    "bisenet_v2": 0.925,
    "upernet": 0.91,
}
HC18 = ("data=hc18", "switch=none", "scheduler=cos")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Nine models on HC18, one seed: what `experiments/NN_models` holds."""
    folder = tmp_path_factory.mktemp("runs") / "models"
    for name, quality in NINE.items():
        write_cell(folder, *HC18, model=name, quality=quality)
    write_cell(folder, *HC18, "model=famseg_t", quality=0.96)
    return load_study(folder)


@pytest.fixture(scope="module")
def optimizers(tmp_path_factory):
    """Table 2 with two seeds, one cell without a run, and the recipe of section 3.4."""
    folder = tmp_path_factory.mktemp("runs") / "table2"
    for seed in (0, 1):
        for i, optimizer in enumerate(("sgd", "adam", "adamw")):
            for j, decay in enumerate(("step", "adadelta", "cos")):
                if (optimizer, decay) != ("sgd", "step"):
                    options = (f"optimizer={optimizer}", f"scheduler={decay}", "switch=none")
                    quality = 0.9 + 0.01 * (3 * i + j)
                    write_cell(folder, *options, seed=seed, quality=quality, classes=THREE, images=12, epochs=3)
        write_cell(folder, seed=seed, quality=0.95, classes=THREE, images=12, epochs=3)
    return load_study(folder)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "table3"
    keys = ("model=famseg_t", "model.mamba=false", "model.fusion=none", "model.upsample=bilinear")
    for key in (*keys, "model.bottle_blocks=[0,0,0,0]"):
        write_cell(folder, key, classes=THREE, images=12, epochs=3)
    write_cell(folder, model="segnext_t", quality=0.85, classes=THREE, images=12, epochs=3)
    return load_study(folder)


def cells(text):
    """The first table of a Markdown text: heads and rows of stripped cells."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def plain(text):
    for mark in ("**", "<u>", "</u>"):
        text = text.replace(mark, "")
    return text


def test_nine_models_make_table_1_with_the_papers_numbers(models):
    table = models.tables[0]
    assert table.key == "models"
    assert [row.name for row in table.rows] == [
        "U-Net", "UPerNet", "Twins", "Swin", "SegNeXt", "MobileNetV3", "ConvNeXt", "BiSeNetV2", "FAMSeg",
    ]  # fmt: skip
    heads, _, unet, *_ = cells(markdown(table))
    assert heads == ["", *(f"{score} {who}" for score in ("IoU BG", "IoU FB", "mIoU") for who in ("paper", "ours"))]
    assert [unet[1], unet[3], unet[5]] == ["98.08", "94.02", "90.13"]
    assert plain(unet[6]) == f"{100 * models.tables[0].rows[0].setting.mean('miou'):.2f}"


def test_nine_models_make_the_table_of_dice_hc_error_and_speed(models):
    heads, _, *rows = cells(markdown(models.tables[1]))
    columns = [heads.index(name) for name in ("Dice %", "HC error mm", "images/s")]
    assert len(rows) == 9
    for row, setting in zip(rows, (row.setting for row in models.tables[1].rows), strict=True):
        scores = setting.records[0].scores
        wanted = [100 * scores["dice_fb"], scores["hc_mae_mm"], setting.records[0].images_per_s]
        assert [float(plain(row[i])) for i in columns] == pytest.approx(wanted, abs=0.051)


def test_data_without_a_femur_says_what_the_mean_is_of(models):
    assert any("no FL" in note for note in models.tables[0].notes)


def test_best_is_bold_and_second_underlined_as_printed():
    scores = [90.0, 91.58, 91.41, 91.58]
    rows = [Row(str(i), None, {"miou": score}) for i, score in enumerate(scores)]
    table = Table("t", "T", rows, [Column("miou", "mIoU", source="paper")])
    assert [line[0].place for line in table.numbers()] == [0, 1, 2, 1]
    assert "**91.58**" in markdown(table)
    assert "<u>91.41</u>" in markdown(table)
    assert r"\textbf{91.58}" in latex(table)
    assert r"\underline{91.41}" in latex(table)


def test_lower_is_better_where_it_is_and_equal_numbers_have_no_best():
    rows = [Row(name, None, {"x": value}) for name, value in (("a", 1.0), ("b", 2.0))]
    low, same = Column("x", "x", better=-1, source="paper"), Column("y", "y", source="paper")
    assert [line[0].place for line in Table("t", "T", rows, [low]).numbers()] == [1, 2]
    equal = [Row(name, None, {"y": 3.0}) for name in "ab"]
    assert [line[0].place for line in Table("t", "T", equal, [same]).numbers()] == [0, 0]


def test_mean_and_standard_deviation_over_seeds(optimizers):
    table = optimizers.tables[0]
    row = next(row for row in table.rows if row.name == "Adam + cos")
    values = [100 * record.scores["miou"] for record in row.setting.records]
    assert len(values) == 2
    number = table.numbers()[table.rows.index(row)][-1]
    assert number.text == f"{np.mean(values):.2f}"
    assert number.spread == f"{np.std(values, ddof=1):.2f}"


def test_table_2_has_nine_rows_of_the_paper_and_the_switch_as_a_tenth(optimizers):
    table = optimizers.tables[0]
    assert table.key == "optimizers"
    assert len(table.rows) == 10
    assert table.rows[-1].name == "AdamW + Adadelta, then SGD"
    assert table.rows[-1].paper == {}
    assert table.reference.name == "AdamW + Adadelta"


def test_a_row_of_the_paper_without_a_cell_stays_and_is_listed(optimizers):
    heads, _, first, *_ = cells(markdown(optimizers.tables[0]))
    assert first[0] == "SGD + step"
    assert plain(first[heads.index("mIoU paper")]) == "90.35"
    assert first[heads.index("mIoU ours")] == "–"
    assert any("no cell for SGD + step" in line for line in optimizers.remarks)


def test_table_3_knows_what_was_taken_out(ablation):
    table = ablation.tables[0]
    assert [row.name for row in table.rows] == [
        "SegNeXt", "No mamba", "Apomixis (no fusion)", "FAMSeg",
        "No mamba, second reading (m = 0)", "Bilinear instead of FAM",
    ]  # fmt: skip
    assert [t.key for t in ablation.tables] == ["ablation", "ablation-further", "sizes-fl", "sizes-fb", "cost"]
    assert table.rows[1].paper["miou"] == 91.29


def test_any_other_sweep_is_a_table_of_what_differs(tmp_path):
    for size in (8, 16):
        for seed in (0, 1):
            write_cell(tmp_path, f"data.batch_size={size}", "data.cache=none", seed=seed, images=8, epochs=2)
    study = load_study(tmp_path)
    assert [row.name for row in study.tables[0].rows] == ["data.batch_size=16", "data.batch_size=8"]
    assert [table.key for table in study.tables] == ["settings", "settings-further", "sizes-fb", "cost"]


def test_classes_that_the_paper_does_not_have(tmp_path):
    for rate in (0.0, 0.2):
        write_cell(tmp_path, f"model.drop_path={rate}", classes=("BG", "ABDOMEN"), images=8, epochs=2)
    heads, *_ = cells(markdown(load_study(tmp_path).tables[0]))
    assert heads == ["", "IoU BG", "IoU ABDOMEN", "mIoU"]


def test_sweeps_of_two_data_sets_make_a_table_each(tmp_path):
    for batch in (8, 16):
        for decay in ("cos", "step"):
            write_cell(tmp_path, f"data.batch_size={batch}", f"scheduler={decay}", "switch=none", images=8, epochs=2)
    study = load_study(tmp_path)
    titles = [
        table.title for table in study.tables if table.key.startswith("optimizers") and "further" not in table.key
    ]
    assert titles == [f"Table 2. Optimizer and decay (data.batch_size={batch})" for batch in (16, 8)]


def test_latex_escapes_what_latex_reads():
    row = Row("a_b & 5 %", None, {"x": 1.0})
    text = latex(Table("t", "50 % of $x", [row], [Column("x", "x_1", source="paper")]))
    assert r"a\_b \& 5 \%" in text
    assert r"\caption{50 \% of \$x" in text
    assert text.count("{") == text.count("}")


def test_one_change_at_a_time_is_compared_with_the_baseline(tmp_path):
    changes = [(), ("loss.dice_weight=3",), ("callbacks=ema",), ("data.augment.rotate=45", "data.augment.scale=0.3")]
    for change, quality in zip(changes, (0.8, 0.9, 0.85, 0.85), strict=True):
        write_cell(tmp_path, "model=famseg_t", *change, images=9, quality=quality, epochs=2)
    write_cell(tmp_path, "model=famseg_s", images=9, epochs=2)
    table = load_study(tmp_path).tables[0]
    assert {row.name for row in table.rows} == {
        "baseline",
        "model=famseg_s",
        "loss.dice_weight=3",
        "callbacks=ema",
        "data.augment.rotate=45, data.augment.scale=0.3",
    }
    assert table.reference.name == "baseline"  # though others are better


@pytest.mark.parametrize(
    "option", ["retry=failed", "data.cache=disk", "trainer.progress=false", "trainer.save_every_s=0", "logger=none"]
)
def test_how_one_cell_was_started_makes_no_table_of_its_own(tmp_path, option):
    for optimizer in ("sgd", "adamw"):
        started = (option,) if optimizer == "sgd" else ()
        write_cell(tmp_path, "switch=none", f"optimizer={optimizer}", *started, images=6, epochs=2)
    table = load_study(tmp_path).tables[0]
    assert table.title == "Table 2. Optimizer and decay"
    assert [row.name for row in table.rows if row.finished] == ["SGD + Adadelta", "AdamW + Adadelta"]


def test_one_of_several_sets_may_have_moved(tmp_path):
    sets = "data.sets.own={_target_:famseg.data.hc18.HC18,root:%s/hc18}"
    for optimizer in ("sgd", "adamw"):
        moved = "+" + sets % f"/{optimizer}"
        write_cell(tmp_path, "switch=none", "data=concat", f"optimizer={optimizer}", moved, images=6, epochs=2)
    assert [row.name for row in load_study(tmp_path).tables[0].rows if row.finished] == [
        "SGD + Adadelta",
        "AdamW + Adadelta",
    ]


def test_an_option_of_the_task_names_its_rows(tmp_path):
    for weight in (0.5, 1.0):
        write_cell(tmp_path, "model=bisenet_v2", f"task.auxiliary_weight={weight}", images=6, epochs=2)
    names = [row.name for row in load_study(tmp_path).tables[0].rows]
    assert names == ["task.auxiliary_weight=0.5", "task.auxiliary_weight=1.0"]


def test_curves_say_what_they_compare(models, optimizers):
    (loss,) = (chart for chart in models.charts if chart.key == "loss")
    assert loss.title == "Training loss"
    assert "auxiliary heads (BiSeNetV2)" in loss.caption
    (loss,) = (chart for chart in optimizers.charts if chart.key == "loss")
    assert loss.title == "Training loss (as the paper's Fig. 5)"
    assert "auxiliary" not in loss.caption
