"""What report.html promises: all is in it, it needs nothing else, and nothing in it can do harm.

How it looks is promised in test_report_in_browser.py; what the numbers are, in test_report.py.
"""

import json
import math
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from made_runs import history, make_run, over

from rnnopt.config.run_config import RunConfig
from rnnopt.report.best_weights import Findings
from rnnopt.report.charts import MOST_CELLS, NO_NUMBER, curves, heat_map, profile, time_to_target
from rnnopt.report.page import page, write_page
from rnnopt.runs import runner
from rnnopt.runs.collection import group_runs, read_runs
from rnnopt.runs.folder import RunFolder

MADE = datetime(2026, 5, 17, 9, 30, tzinfo=UTC)
VOID = {"meta", "wbr", "br", "link", "img", "input", "hr"}
HARM = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """The elements of a page, checked to be nested right, and its text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.open):
            self.texts.append(data)

    @property
    def text(self):
        """What is read, with single spaces."""
        return " ".join("".join(self.texts).split())

    def all(self, tag):
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(runs, scores=False):
    """The page of runs, parsed."""
    return Page(page(runs, MADE, scores))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Four real runs of a few steps, of two optimizers."""
    folders = []
    for optimizer in ("adam", "sgd:momentum=0.9"):
        for seed in (0, 1):
            path = tmp_path_factory.mktemp("runs") / "run"
            settings = dict(task="digits-rows", hidden=6, budget="12gradients")
            runner.run(RunConfig(**settings, optimizer=optimizer, seed=seed), path)
            folders.append(RunFolder.open(path))
    return read_runs(folders)


# -- content ---------------------------------------------------------------------------------------


def test_the_page_has_every_part(trained):
    found = page_of(trained, scores=True)
    headings = [name for name, _ in found.elements if name in ("h1", "h2", "h3")]
    assert headings == ["h1", "h2", *["h3"] * 5, "h2", "h2"]
    for part in (
        "adam and sgd:momentum=0.9 on digits-rows", "12gradients", "2026-05-17 09:30 UTC",
        "torch 2", "best validation accuracy", "Curves", "Time to the target",
        "Classification of the test data", "precision", "Gradients through time", "recurrent.0",
        "Settings", "System", "cpu_kernels",
    ):  # fmt: skip
        assert part in found.text, part
    assert "not examined" not in found.text
    assert len([a for a in found.all("svg") if a.get("class") == "chart"]) == 4
    assert len([a for a in found.all("table") if a.get("class") == "confusion"]) == 2


def test_the_table_is_that_of_the_other_report(tmp_path):
    runs = [make_run(tmp_path, over(to_target=10 * (seed + 1)), seed=seed) for seed in (0, 1)]
    text = page_of(runs).text
    assert "adam 2 0.5000 ± 0.0000 0.6000 ± 0.0000 2/2 15 ± 64" in text


def test_settings_that_differ_stand_apart_from_the_shared_ones(tmp_path):
    runs = [make_run(tmp_path, lr=0.1), make_run(tmp_path, lr=0.2, seed=3)]
    text = page_of(runs).text
    assert "same. runs lr seeds adam lr=0.1 0.1 0 adam lr=0.2 0.2 3 The" in text
    shared = text.partition("settings that all runs share")[2]
    assert "optimizer adam" in shared
    assert "clip unset" in shared
    assert " lr " not in shared.partition("System")[0]


def test_runs_without_anything_yet_make_a_page(tmp_path):
    found = page_of([make_run(tmp_path, {"status": "running"}, records=[])], scores=True)
    assert "1 running" in found.text
    assert "No run has two evaluations on validation data yet." in found.text
    assert "No run reached the target" in found.text
    assert "not examined of adam: no run is over" in found.text
    assert "noted no system" in found.text


def test_weights_that_cannot_be_examined_cost_no_page(tmp_path):
    (tmp_path / "best.pt").write_text("damaged")
    text = page_of([make_run(tmp_path)], scores=True).text
    assert re.search(r"not examined of adam: .*best\.pt is not a readable checkpoint", text)


def test_what_cannot_be_examined_for_one_reason_is_told_once(tmp_path):
    # Where the data are missing, that is one sentence and not one for each optimizer.
    runs = [make_run(tmp_path, {"status": "running"}, optimizer=name) for name in ("adam", "sgd")]
    assert "not examined of adam, sgd: no run is over" in page_of(runs, scores=True).text


def test_long_names_may_be_broken_at_their_commas(tmp_path):
    text = page([make_run(tmp_path, optimizer="sgd:lr=0.1,nesterov=true<")], MADE, scores=False)
    assert "sgd:<wbr>lr=0.1,<wbr>nesterov=true&lt;" in text
    assert "<wbr>" not in Page(text).text


def test_without_scores_nothing_is_examined(trained):
    text = page_of(trained).text
    assert "Classification" not in text
    assert "not examined" not in text


def test_system_entries_that_differ_are_all_told(tmp_path):
    runs = []
    for seed, threads in enumerate((1, 4, 4)):
        path = tmp_path / str(seed)
        path.mkdir()
        facts = {"threads": threads, "gpu": None, "load": 0.5 + seed}
        (path / "environment.json").write_text(json.dumps(facts))
        runs.append(make_run(path, seed=seed))
    assert "threads 1, 4 gpu none load 0.5 to 2.5" in page_of(runs).text
    assert "load 0.5" in page_of(runs[:1]).text


@pytest.fixture
def own_data(tmp_path, rng):
    """Two runs of one name on different files of series, with classes of different names."""
    runs = []
    for names in ("rest,walk", "<i>up</i>,down,still"):
        path = tmp_path / f"{len(runs)}.npz"
        labels = np.array(names.split(",") * 20)
        values = torch.randn(len(labels), 7, 2, generator=rng).numpy()
        np.savez(path, X=values, y=labels)
        config = RunConfig(task="own", data=str(path), hidden=4, budget="5gradients")
        runner.run(config, tmp_path / path.stem)
        runs.append(RunFolder.open(tmp_path / path.stem))
    return read_runs(runs)


def test_classes_of_own_data_have_their_names(own_data):
    found = page_of(own_data, scores=True)
    assert "not examined" not in found.text
    for name in ("rest", "walk", "<i>up</i>", "down", "still"):
        assert f" {name} " in found.text
    assert not found.all("i")
    assert len([a for a in found.all("table") if a.get("class") == "confusion"]) == 2


def test_weights_are_not_tried_on_data_that_have_changed(own_data):
    np.savez(own_data[0].config.data, X=np.ones((40, 7, 2)), y=["a", "b"] * 20)
    text = page_of(own_data[:1], scores=True).text
    assert "not examined" in text
    assert "has changed since the run" in text


def test_the_page_is_written_whole_or_not_at_all(tmp_path, trained):
    path = write_page(trained, tmp_path / "deep" / "report", scores=False)
    assert path.name == "report.html"
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


# -- harmless --------------------------------------------------------------------------------------


def hostile(tmp_path):
    """Runs whose every text is markup."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "best.pt").touch()
    (path / "environment.json").write_text(json.dumps({HARM: HARM, "torch": HARM}))
    noted = {"summary": HARM, "loss": HARM, "metric": HARM, "status": HARM}
    config = dict(task=HARM, optimizer=f"adam:eps={HARM}", initialization=HARM)
    runs = []
    for seed in (0, 1):
        run = make_run(path, over(to_target=10), seed=seed)
        run.result.update(noted)
        for name, value in config.items():  # as a file that was tampered with might have it
            object.__setattr__(run.config, name, value if seed else f"{value}{seed}")
        runs.append(run)
    return runs


def test_markup_in_names_is_shown_and_does_nothing(tmp_path):
    found = page_of(hostile(tmp_path), scores=True)
    assert not found.all("script")
    assert not found.all("img")
    assert not [a for _, a in found.elements if any(name.startswith("on") for name in a)]
    assert found.text.count("<script>alert(1)</script>") > 10
    assert "not examined" in found.text


def test_nothing_is_loaded_from_anywhere(trained):
    text = page(trained, MADE, scores=True)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", text)
    found = Page(text)
    assert not {"script", "link", "iframe", "img", "object"} & {name for name, _ in found.elements}
    for _, attributes in found.elements:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert attributes.get(name, "#").startswith("#")


def test_a_policy_forbids_all_but_style_and_pictures_in_the_page(trained):
    (policy,) = (a["content"] for a in page_of(trained).all("meta") if "http-equiv" in a)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:",
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip


def test_pictures_have_names_and_tables_captions_and_headings(trained):
    found = page_of(trained, scores=True)
    for svg in found.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"], bool(svg["aria-label"])) == (
            "img", True,
        )  # fmt: skip
    assert len(found.all("caption")) == len(found.all("table"))
    assert all(th["scope"] in ("row", "col") for th in found.all("th"))
    assert all(a["tabindex"] == "0" for a in found.all("div") if a.get("class") == "scroll")


# -- charts ----------------------------------------------------------------------------------------


def grouped(runs):
    """The runs by task, and the numbers of their groups."""
    by_task = group_runs(runs)
    labels = dict.fromkeys(group.label for groups in by_task.values() for group in groups)
    return by_task, {label: i for i, label in enumerate(labels)}


def test_curves_say_where_they_end(tmp_path):
    runs = [make_run(tmp_path), make_run(tmp_path, optimizer="sgd", metrics=(0.1, 0.3, 0.5))]
    by_task, numbers = grouped(runs)
    charts = curves(by_task["digits-rows"], numbers)
    assert [one.x_label for one in charts] == ["gradient evaluations", "training seconds"] * 2
    assert charts[2].summary == (
        "validation accuracy against gradient evaluations: adam ends at 0.3; sgd ends at 0.5."
    )
    assert [one.target for one in charts] == [pytest.approx(math.nan, nan_ok=True)] * 2 + [0.95] * 2


def test_time_to_target_counts_every_run_of_a_group(tmp_path):
    costs = (10, 20, None, None)
    runs = [make_run(tmp_path, over(to_target=cost), seed=i) for i, cost in enumerate(costs)]
    by_task, numbers = grouped(runs)
    chart = time_to_target(by_task["digits-rows"], numbers)[0]
    assert chart.summary.endswith("adam: 2 of 4.")
    # Of four runs one is there after 10 gradients and another after 20, where the axis ends.
    ((place, label, curve),) = chart.lines
    assert (place, label, chart.steps) == (0, "adam", True)
    assert list(zip(curve.at, curve.mean, strict=True)) == [
        (0, 0),
        (10, 0.25),
        (20, 0.5),
        (20, 0.5),
    ]


def two_tasks(tmp_path, costs):
    """Runs of groups with costs by task, one seed each."""
    return [
        make_run(tmp_path, over(to_target=cost), task=task, optimizer=optimizer)
        for optimizer, mine in costs.items()
        for task, cost in zip(("digits-rows", "digits-pixels"), mine, strict=True)
    ]


def test_the_performance_profile_by_hand(tmp_path):
    # Ratios to the fastest: a 1 and 4, b 2 and 1, c never and never.
    costs = {"adam": (10, 40), "sgd": (20, 10), "muon": (None, None)}
    found = profile(*grouped(two_tasks(tmp_path, costs)))
    assert (found.labels, found.problems) == (["adam", "sgd", "muon"], 2)
    assert found.chart.summary == (
        "adam is fastest on 1 of 2 and solves 2; sgd is fastest on 1 of 2 and solves 2;"
        " muon is fastest on 0 of 2 and solves 0."
    )
    curves = [(curve.at, curve.mean) for _, _, curve in found.chart.lines]
    end = 1.1 * 4
    assert curves == [
        ([1, 4, end], [0.5, 1, 1]), ([1, 2, end], [0.5, 1, 1]), ([1, end], [0, 0]),
    ]  # fmt: skip
    assert (found.chart.log_x, found.chart.steps) == (True, True)


def test_a_profile_needs_two_groups_on_two_tasks(tmp_path):
    assert profile(*grouped([make_run(tmp_path), make_run(tmp_path, optimizer="sgd")])) is None
    alone = two_tasks(tmp_path, {"adam": (10, 40)})
    assert profile(*grouped(alone)) is None
    apart = [make_run(tmp_path, optimizer="sgd"), *alone[1:]]
    assert profile(*grouped(apart)) is None
    assert "No performance profile" in page_of(apart).text


def test_lines_of_an_optimizer_look_alike_on_every_task(tmp_path):
    runs = two_tasks(tmp_path, {"adam": (10, 40), "sgd": (20, 10)})
    runs = [make_run(tmp_path, task="counting", optimizer="sgd"), *runs]
    found = page_of(runs)
    strokes = [
        re.findall(r"--c\d|stroke-dasharray: [\d,]+", a.get("style", "")) for a in found.all("path")
    ]
    drawn = {tuple(sorted(look)) for look in strokes if any("--c" in part for part in look)}
    assert drawn == {("--c0",), ("--c1", "stroke-dasharray: 7,3"), ("--c1", "stroke-dasharray: 7")}


def test_the_heat_map_has_one_scale_for_all(tmp_path):
    run = make_run(tmp_path, records=history((0.1, 0.2)))
    flows = {"adam": {"l0": [1e-3, 1.0]}, "sgd": {"l0": [1.0, 10.0], "l1": [0.0, math.nan]}}
    heat = heat_map({label: Findings(run, None, flow) for label, flow in flows.items()})
    assert (heat.low, heat.high) == ("0.001", "10")
    (adam,) = heat.strips["adam"]
    first, second = heat.strips["sgd"]
    assert adam.cells[0][0] == heat.scale[0]
    assert first.cells[1][0] == heat.scale[-1]
    assert adam.cells[1][0] == first.cells[0][0]
    assert [color for color, _ in second.cells] == [heat.scale[0], NO_NUMBER]
    assert (adam.first, adam.last) == ("step 1: 0.001", "step 2: 1")


def test_long_sequences_are_drawn_in_cells_of_several_steps(tmp_path):
    flow = {"l0": [1.0] * 783 + [2.0]}
    heat = heat_map({"adam": Findings(make_run(tmp_path), None, flow)})
    (strip,) = heat.strips["adam"]
    assert len(strip.cells) == MOST_CELLS
    assert strip.cells[0][1] == "steps 1 to 6: 1"


def test_no_gradient_at_all_makes_no_heat_map(tmp_path):
    run = make_run(tmp_path)
    assert heat_map({}) is None
    assert heat_map({"adam": Findings(run, None, {"l0": [0.0, 0.0]})}) is None
