"""The report of a study: its numbers are worked out anew from what the study keeps; it stands by itself."""

from __future__ import annotations

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from dosing import NOT_FOR_PATIENTS
from dosing.data.store import write_episodes
from dosing.errors import UserError
from dosing.evaluation.statistics import Estimate
from dosing.ope.selection import Settings
from dosing.runs.files import read_json, write_json
from dosing.runs.folder import CONFIG, DONE, EPISODES, WEIGHTS, find_runs
from dosing.studies import Folds, Grid, Resources, compare, presets, references, select
from dosing.studies.commands import COMMANDS, command_of, note_command
from dosing.studies.naming import CURVES, TABLE
from dosing.studies.report.document import Code, Figure, Quote, Section, Table, Words, html, markdown
from dosing.studies.report.figures import Panel, Point, Series, forest, frame, pages, panels
from dosing.studies.report.judged import judge, sentences
from dosing.studies.report.page import is_study, write_report
from dosing.studies.report.pooled import pooled
from dosing.studies.report.study import read_compared
from dosing.studies.selected import SELECTION
from dosing.training.offline import TrainingSettings
from tests.oracles import aggregates as slow
from tests.support.samples import cohort

TINY = TrainingSettings(steps=12, batch_size=8, checkpoint_every=4, log_every=4)
CPU = Resources("cpu", workers=1)
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three agents on two data sets, looked at once on the way."""
    folder = tmp_path_factory.mktemp("report")
    for name, patients in (("few", 8), ("more", 12)):
        write_episodes(cohort(patients), folder / f"{name}.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(references, "SEARCH_PATIENTS", 50)
        compare(
            folder / "study",
            Grid(("fttpo", "iql", "bc"), {"hidden": [(8, 8)]}),
            [folder / "few.parquet", folder / "more.parquet"],
            seeds=SEEDS,
            training=TINY,
            milestones=(4,),
            evaluation_patients=6,
            resources=CPU,
        )
    return folder / "study"


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    shutil.copytree(made.parent, tmp_path / "copy")
    return tmp_path / "copy" / "study"


def constant_of(study: Path, run: str) -> pd.DataFrame:
    """Returns of the constant dose, of the references on the same data set, by seed and patient."""
    data = read_json(study / run / CONFIG)["data"]["name"]
    baselines = {
        r["data"]: r["baseline"]["patients"] for r in read_json(study / TABLE)["rows"] if r["baseline"]
    }
    for record in study.glob("references/*/references.json"):
        if read_json(record)["settings"]["baseline"]["patients"] == baselines[data]:
            frame = pd.read_parquet(record.parent / EPISODES)
            return frame[frame.rule == "estimated"].set_index(["seed", "patient"]).returns
    raise AssertionError(data)


def own(study: Path, run: str) -> pd.DataFrame:
    frame = pd.read_parquet(study / run / EPISODES)
    return frame[frame.rule == "recommended"].set_index(["seed", "patient"]).returns


# Numbers


def test_p_values_are_t_tests_of_the_kept_outcomes_and_corrected_for_all(made: Path) -> None:
    compared = read_compared(made)
    judged, missing = judge(compared)
    assert len(judged) == 6
    assert missing == []
    p = []
    for one in judged:
        seeds = (own(made, one.one.path) - constant_of(made, one.one.path)).groupby("seed").mean()
        assert one.difference.value == pytest.approx(seeds.mean())
        p.append(scipy.stats.ttest_1samp(seeds, 0.0).pvalue)
        assert one.p == pytest.approx(p[-1], rel=1e-6)
    for alpha in (0.01, 0.05, 0.3, 0.9):
        told = {k for k, one in enumerate(judged) if one.adjusted <= alpha}
        assert told == slow.rejected(p, alpha)
    for one in judged:
        kept = one.adjusted < 0.05
        assert one.verdict == (one.alone if kept else "not distinguishable")


def test_a_named_reference_is_paired_by_patient_and_left_out_of_the_family(made: Path) -> None:
    judged, _ = judge(read_compared(made), "IQL")
    assert [one.one.row.name for one in judged] == ["FtTPO", "BC"] * 2
    for one in judged:
        (other,) = [p for p in read_json(made / TABLE)["runs"] if p.startswith(f"iql/{one.one.row.data}/")]
        seeds = (own(made, one.one.path) - own(made, other)).groupby("seed").mean()
        half = scipy.stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / 3**0.5
        ends = one.difference.value, one.difference.low, one.difference.high
        assert ends == pytest.approx((seeds.mean(), seeds.mean() - half, seeds.mean() + half))
        assert one.difference.n == 18
    with pytest.raises(UserError, match=r"'X' is no run on few; the runs are: FtTPO \(sparse q-Gaussian\)"):
        judge(read_compared(made), "X")


def test_pooled_scores_are_normalised_by_uniform_dosing_and_the_constant_dose(made: Path) -> None:
    compared = read_compared(made)
    table = next(part for part in pooled(compared) if isinstance(part, Table))
    rows = {row[0]: row for row in table.rows}
    told = {
        (r["data"], r["name"].split()[0]): r["recommended"]["value"] for r in read_json(made / TABLE)["rows"]
    }
    curves = pd.read_parquet(made / CURVES)
    curves = curves[curves["update"] == 12]
    scores = {}
    for agent in ("fttpo", "iql", "bc"):
        columns = []
        for data in ("few", "more"):
            zero, one = told[data, "uniform"], told[data, "constant"]
            mine = curves[(curves.agent == agent) & (curves.data == data)].recommended.to_numpy()
            columns.append((mine - zero) / (one - zero))
        scores[agent] = np.stack(columns, axis=1)
    constant = []
    for data in ("few", "more"):
        run = next(p for p in read_json(made / TABLE)["runs"] if f"/{data}/" in p)
        means = constant_of(made, run).groupby("seed").mean().to_numpy()
        zero, one = told[data, "uniform"], told[data, "constant"]
        constant.append((means - zero) / (one - zero))
    base = np.stack(constant, axis=1)
    titles = {one.config.agent: one.title for one in compared.trained}
    for agent, own_scores in scores.items():
        _, middle, above, seeds, count = rows[titles[agent]]
        assert float(middle.split()[0].replace("\N{MINUS SIGN}", "-")) == pytest.approx(
            slow.interquartile_mean(own_scores.ravel().tolist()), abs=0.06
        )
        assert float(above.split()[0]) == pytest.approx(
            slow.improvement(own_scores.tolist(), base.tolist()), abs=0.006
        )
        assert (seeds, count) == ("3", "6")


def test_without_a_common_scale_each_data_set_is_pooled_by_itself(study: Path) -> None:
    table = read_json(study / TABLE)
    for row in table["rows"]:
        if row["family"] == "uniform" and row["data"] == "few":
            row["recommended"] |= {"value": 99.0, "high": 100.0}
    write_json(study / TABLE, table)
    parts = list(pooled(read_compared(study)))
    assert "on few no estimated constant dose returns more" in str(parts[0])
    captions = [part.caption for part in parts if isinstance(part, Table)]
    assert captions == ["Over the seeds, few", "Over the seeds, more"]


def test_many_policies_without_a_difference_share_a_sentence(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged, _ = judge(read_compared(made))
    assert len(sentences(judged)) == 6
    monkeypatch.setattr("dosing.studies.report.judged.FEW", 2)
    told = sentences(judged)
    quiet = [one for one in judged if one.verdict == "not distinguishable"]
    data_sets = {one.one.row.data for one in quiet}
    assert len(told) == len(judged) - len(quiet) + len(data_sets)
    for one in quiet:
        assert any(one.one.title in line and line.startswith("Not disting") for line in told)


def test_policies_side_by_side_are_shown_as_the_table_keeps_them(study: Path, tmp_path: Path) -> None:
    def told(value: float) -> dict[str, Any]:
        e = Estimate(value, value - 0.25, value + 0.25, 0.95, 1234, 3, "t over seeds")
        return dataclasses.asdict(e)

    given = [{"returns": told(x), "cost": told(x + 1), "worst": None} for x in (7.0, -3.0)]
    row = {"title": "IQL", "family": "thin", "data": "few", "recommended": given[0], "sampled": given[1]}
    row |= {"lost": told(10.0), "half_width": told(0.5), "width_kind": "exact support"}
    row |= {"outside_limits": told(0.0), "outside_interval": None, "entropy": told(-4.0)}
    write_json(study / TABLE, read_json(study / TABLE) | {"policies": [row]})
    text = write_report(study, tmp_path / "report.md")[0].read_text()
    seven, three = "7.00 [6.75, 7.25]", "\N{MINUS SIGN}3.00 [\N{MINUS SIGN}3.25, \N{MINUS SIGN}2.75]"
    assert f"| IQL (thin) | {seven} | {three} | 10.00 [9.75, 10.25] | 8.00 [7.75, 8.25] |" in text
    assert "| IQL (thin) | 0.50 [0.25, 0.75] | exact support | 0.00 [\N{MINUS SIGN}0.25, 0.25] |" in text
    assert "| 1,234 |" in text
    write_json(study / TABLE, read_json(study / TABLE) | {"policies": [{"data": "few"}]})
    with pytest.raises(UserError, match="are not of this version"):
        write_report(study, tmp_path / "report.md")


# The page


class Reader(HTMLParser):
    """Tags, their attributes, and whether they close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "rect", "line", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_by_itself_and_says_what_it_is(made: Path, tmp_path: Path) -> None:
    (out,) = write_report(made, tmp_path / "report.html")
    page = out.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    tags = {tag for tag, _ in reader.seen}
    assert tags.isdisjoint({"script", "img", "link", "iframe", "object", "a"})
    assert all(not key.startswith("on") and key not in ("href", "src") for _, a in reader.seen for key in a)
    assert set(re.findall(r"https?://[^\"' <]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert page.count(NOT_FOR_PATIENTS) >= 2
    table = read_json(made / TABLE)
    assert [f'"{x}"' in page or x in page for x in (made.name, "few", "more")] == [True] * 3
    for run in table["runs"]:
        assert run.rpartition("/")[2] in page
        assert read_json(made / run / DONE)[WEIGHTS] in page
        assert read_json(made / run / CONFIG)["data"]["content_hash"] in page
    for row in table["rows"]:
        assert str(Estimate(**row["recommended"])).replace("-", "\N{MINUS SIGN}") in page
    assert "AVX" in page or "DEFAULT" in page or "NEON" in page  # the kind of processor


def test_as_markdown_it_says_the_same_and_its_figures_lie_beside(made: Path, tmp_path: Path) -> None:
    out, *figures = write_report(made, tmp_path / "report.md")
    text = out.read_text(encoding="utf-8")
    assert {f"]({file.name})" in text for file in figures} == {True}
    assert len(figures) == 2 + 1 + 2  # differences of each data set, profiles of both, curves of each
    for file in figures:
        assert ET.fromstring(file.read_text()).tag.endswith("svg")
    for quote in sentences(judge(read_compared(made))[0]):
        assert quote.replace("<", "&lt;") in text
    assert text.count(NOT_FOR_PATIENTS) >= 2


def test_no_text_is_read_as_markup() -> None:
    bad = '<b onload="x">|*`](javascript:x)'
    parts = (Words(bad), Quote(bad), Code((bad,)), Table(bad, (bad, "n"), ((bad, "1"),)))
    parts += (Figure("a/x", "<svg ></svg>", bad),)
    page = html(bad, [Section(bad, parts)])
    reader = Reader()
    reader.feed(page)
    assert "b" not in {tag for tag, _ in reader.seen}
    assert not any("onload" in attributes for _, attributes in reader.seen)
    text, figures = markdown(bad, [Section(bad, parts)], "report")
    assert list(figures) == ["report-a-x.svg"]
    outside = text.replace(f"```\n{bad}\n```", "")
    assert "<b" not in outside
    assert "](javascript" not in outside
    assert all(line.count(" | ") == 1 for line in outside.splitlines() if line.startswith("| "))


def test_columns_that_say_nothing_are_left_out() -> None:
    table = Table("t", ("a", "b", "c"), (("1", "-", "x"), ("2", "-", "-")))
    assert table.columns() == [0, 2]
    assert "<th>b</th>" not in html("t", [Section("s", (table,))])


# Figures


def test_a_forest_plot_draws_to_scale() -> None:
    def at(value: float, kind: str) -> Point:
        return Point(kind, Estimate(value, value - 0.5, value + 0.5, 0.95, 10, 5, "t over seeds"), kind)

    points = [at(1.0, "better"), at(3.0, "not distinguishable"), at(-2.0, "worse"), at(50.0, "rule")]
    ends = frame(points)
    assert ends == pytest.approx((-2.5 - 0.9, 3.5 + 0.9))  # the rule is beyond
    picture = ET.fromstring(forest(points, "difference", ends))
    name = "{http://www.w3.org/2000/svg}"
    circles = [(float(c.get("cx")), c.get("fill")) for c in picture.iter(f"{name}circle")]
    zero = next(float(x.get("x1")) for x in picture.iter(f"{name}line") if x.get("stroke-width") == "1.2")
    unit = circles[0][0] - zero
    assert unit > 0
    assert circles[1][0] - zero == pytest.approx(3 * unit, abs=0.3)
    assert (circles[0][1], circles[1][1]) == ("#1f2328", "white")
    assert len(list(picture.iter(f"{name}polygon"))) == 1  # worse
    assert [t.text for t in picture.iter(f"{name}text")].count("\u25b6") == 1


def test_small_panels_share_their_axes() -> None:
    x = (10.0, 100.0, 1000.0)
    drawn = [Panel(f"p{k}", Series(x, (0.0, k, 1.0), (0.0, k, 1.0), (0.0, k, 1.0))) for k in (0.0, 1.0)]
    picture = ET.fromstring(panels(drawn, "updates", "return", logarithmic=True))
    lines = [p.get("points").split() for p in picture.iter("{http://www.w3.org/2000/svg}polyline")]
    places = [[tuple(map(float, place.split(","))) for place in line] for line in lines]
    across = [place[0] for place in places[0]]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.2)  # decades
    assert places[0][0] == places[1][0]
    assert places[1][1][1] == places[0][2][1]  # 1 is as high in both


def test_a_figure_of_many_goes_over_several_pages() -> None:
    assert [list(part) for part in pages([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]


# Studies that are not whole


def test_a_run_that_was_changed_is_not_reported(study: Path, tmp_path: Path) -> None:
    run = find_runs(study)[0]
    with (run.path / WEIGHTS).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="changed or truncated"):
        write_report(study, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_references_that_were_changed_are_not_used(study: Path, tmp_path: Path) -> None:
    with next(study.glob(f"references/*/{EPISODES}")).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="was changed since it was written"):
        write_report(study, tmp_path / "report.html")


def test_notes_unfinished_and_further_runs_are_told(study: Path, tmp_path: Path) -> None:
    table = read_json(study / TABLE)
    left = table["runs"].pop(2), table["rows"].pop(2)
    table["notes"].append("BC on few is not in the table: it diverged")
    write_json(study / TABLE, table)
    other = next(p for p in table["runs"] if p.startswith("bc/more/"))
    shutil.copytree(study / other, study / "bc/more/000000000000")
    (study / "bc/more/000000000000" / DONE).unlink()
    page = write_report(study, tmp_path / "report.html")[0].read_text()
    assert "it diverged" in page
    assert "bc/more/000000000000 is a run without a result" in page
    assert "1 more finished runs are in the folder" in page
    assert left[0].rpartition("/")[2] not in page
    assert "No policy stands beside" not in page


@pytest.mark.long
def test_one_seed_has_nothing_to_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "SEARCH_PATIENTS", 50)
    write_episodes(cohort(), tmp_path / "few.parquet")
    study = tmp_path / "study"
    grid = Grid(("bc", "iql"), {"hidden": [(8,)]})
    compare(
        study,
        grid,
        tmp_path / "few.parquet",
        seeds=(0,),
        training=TINY,
        evaluation_patients=5,
        resources=CPU,
    )
    page = write_report(study, tmp_path / "report.html")[0].read_text()
    assert "nothing to pool" in page
    assert "t over patients" in page
    with pytest.raises(UserError, match="two or more seeds"):
        write_report(study, tmp_path / "report.html", "BC")


def test_pairs_keep_their_costs_and_the_preset_is_named(study: Path) -> None:
    table = read_json(study / TABLE)
    estimate = dataclasses.asdict(Estimate(0.0, -1.0, 1.0, 0.95, 18, 3, "t over seeds"))
    costs = [estimate | {"value": value} for value in (-0.1234, -0.5678)]
    pair = {
        "name": "IQL",
        "distributions": ["thin", "fat"],
        "recommended": estimate,
        "sampled": estimate,
        "data": "few",
        "costs": costs,
    }
    write_json(study / TABLE, table | {"differences": [pair], "presets": ["sparse-vs-gaussian", "gone"]})
    (told,) = read_compared(study).differences
    assert told.costs is not None
    assert [cost.value for cost in told.costs] == [-0.1234, -0.5678]
    page = write_report(study, study / "report.md")[0].read_text()
    assert str(Estimate(**costs[1])).replace("-", "\N{MINUS SIGN}") in page
    assert f"preset sparse-vs-gaussian: {presets.find('sparse-vs-gaussian').about}" in page
    assert "preset gone: this version does not know it" in page
    write_json(study / TABLE, table | {"differences": [pair | {"costs": 1.0}]})
    with pytest.raises(UserError, match="costs"):
        read_compared(study)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rows": [], "runs": [], "differences": [], "notes": []}, "names no runs"),
        ({"trials": []}, "not the table of this version's compare"),
    ],
)
def test_another_table_is_refused(study: Path, content: dict[str, Any], words: str) -> None:
    write_json(study / TABLE, content)
    with pytest.raises(UserError, match=words):
        write_report(study, study / "report.html")


def test_a_file_of_another_kind_and_another_folder_are_refused(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must end in \.html or \.md"):
        write_report(study, study / "report.pdf")
    assert not is_study(tmp_path)
    with pytest.raises(UserError, match="no finished comparison or selection"):
        write_report(tmp_path, tmp_path / "report.html")


# The command


def test_a_command_is_noted_for_the_file_as_it_wrote_it(study: Path, tmp_path: Path) -> None:
    page = write_report(study, tmp_path / "report.html")[0].read_text()
    assert "Which command wrote this table is not noted" in page
    note_command(study / TABLE, ["compare", "--out", "a study"])
    assert command_of(study / TABLE) == "python -m dosing compare --out 'a study'"
    page = write_report(study, tmp_path / "report.html")[0].read_text()
    assert "python -m dosing compare --out &#x27;a study&#x27;" in page
    write_json(study / TABLE, read_json(study / TABLE) | {"notes": ["written again"]})
    assert command_of(study / TABLE) is None
    write_json(study / COMMANDS, {TABLE: "x"})
    with pytest.raises(UserError, match="does not say by which command"):
        command_of(study / TABLE)


# Selections


@pytest.mark.long
def test_a_selection_is_reported_with_its_verdict_and_every_value(tmp_path: Path) -> None:
    write_episodes(cohort(12), tmp_path / "visits.parquet")
    study = tmp_path / "study"
    select(
        study,
        Grid(("bc", "iql"), {"hidden": [(8,)]}),
        tmp_path / "visits.parquet",
        folds=Folds(2),
        seeds=(0,),
        training=TINY,
        criterion=Settings(estimators=("fqe",)),
        resources=CPU,
    )
    note_command(study / SELECTION, ["select", "--agents", "bc", "iql"])
    page = write_report(study, tmp_path / "report.md")[0].read_text()
    content = read_json(study / SELECTION)
    assert f"> {content['verdict'].replace('*', chr(92) + '*')}" in page
    for one in (*content["candidates"], content["constant"]):
        value = one["values"]["fqe"]
        if value["estimate"]:
            assert str(Estimate(**value["estimate"])).replace("-", "\N{MINUS SIGN}") in page
        else:
            assert value["refused"] in page
    assert "python -m dosing select --agents bc iql" in page
    assert "4 finished trainings" in page  # two candidates on two folds
    for run in find_runs(study / "folds"):
        assert run.config().data.content_hash in page
    with pytest.raises(UserError, match="--reference is for comparisons"):
        write_report(study, tmp_path / "report.md", "BC")
    write_json(study / SELECTION, {"verdict": "x"})
    with pytest.raises(UserError, match="not of this version's select"):
        write_report(study, tmp_path / "report.md")
