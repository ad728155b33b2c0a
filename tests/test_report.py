"""What a report promises: groups, intervals, the table and the figure, from run folders alone.

That the verbs write it is promised in test_command_line.py.
"""

import math
from itertools import combinations

import pytest
from made_runs import history, make_run, over
from matplotlib.collections import PolyCollection

from rnnopt.config.run_config import RunConfig
from rnnopt.report import tables as report
from rnnopt.report.figures import figure, write_report
from rnnopt.report.statistics import mean_and_width
from rnnopt.report.tables import rows
from rnnopt.runs.collection import Run, group_runs
from rnnopt.tasks import mnist

T_2, T_3 = 12.7062047, 4.3026527  # 97.5 % points of Student's t for 2 and 3 values, from a table


def only_row(runs, task="digits-rows"):
    """The row of the only group, by heading."""
    (group,) = group_runs(runs)[task]
    (row,) = rows([group])
    return dict(zip(report.columns([group]), row, strict=True))


# -- intervals ------------------------------------------------------------------------------------


def test_interval_of_two_values_by_hand():
    # Mean 1, deviation √2, so the half width is t √2/√2 = t.
    assert mean_and_width([0.0, 2.0]) == pytest.approx((1, T_2))


def test_interval_of_three_values_by_hand():
    # Mean 2, deviation 1, half width t/√3 = 2.484.
    assert mean_and_width([1.0, 2.0, 3.0]) == pytest.approx((2, T_3 / math.sqrt(3)))


def test_equal_values_have_no_width():
    assert mean_and_width([0.5, 0.5, 0.5]) == (0.5, 0)


def test_one_value_has_a_mean_but_no_interval():
    mean, width = mean_and_width([3.0])
    assert mean == 3
    assert math.isnan(width)


def test_a_miss_makes_the_mean_infinite():
    mean, width = mean_and_width([100.0, math.inf])
    assert mean == math.inf
    assert math.isnan(width)


# -- groups ---------------------------------------------------------------------------------------


def labels(runs, task="digits-rows"):
    """Label and number of runs of each group of a task."""
    return [(group.label, len(group.runs)) for group in group_runs(runs)[task]]


def test_runs_that_differ_in_the_seed_alone_form_a_group(tmp_path):
    runs = [
        make_run(tmp_path, optimizer=optimizer, seed=seed)
        for seed in (0, 1, 2)
        for optimizer in ("sgd", "adam:lr=0.1")
    ]
    assert labels(runs) == [("sgd", 3), ("adam:lr=0.1", 3)]


def test_labels_tell_settings_that_differ_and_no_others(tmp_path):
    runs = [
        make_run(tmp_path, lr=0.1, hidden=8),
        make_run(tmp_path, lr=0.01, hidden=8),
        make_run(tmp_path, hidden=8),
        make_run(tmp_path, lr=0.01, hidden=8, seed=4),
        make_run(tmp_path, optimizer="sgd", lr=0.1, hidden=8, batch_norm=True),
    ]
    assert labels(runs) == [
        ("adam lr=0.1", 1),
        ("adam lr=0.01", 2),
        ("adam", 1),
        ("sgd lr=0.1 batch_norm=True", 1),
    ]


def test_labels_of_different_groups_differ(tmp_path):
    runs = [make_run(tmp_path, **{name: value}) for name, value in [
        ("hidden", 8), ("layers", 2), ("clip", 1.0), ("budget", "5epochs"), ("model", "gru"),
        ("readout", "mean"), ("schedule", "linear"), ("initialization", "normal"),
        ("batch_size", 7), ("optimizer", "sgd"), ("stop_at_target", True), ("threads", 2),
    ]] + [make_run(tmp_path)]  # fmt: skip
    found = labels(runs)
    assert len(found) == len({label for label, _ in found}) == 13


def test_every_task_has_its_own_groups(tmp_path):
    tasks = ("digits-rows", "counting", "counting:length=5")
    runs = [make_run(tmp_path, task=task, seed=seed) for seed in (0, 1) for task in tasks]
    grouped = group_runs(runs)
    assert list(grouped) == list(tasks)
    assert [[group.label for group in groups] for groups in grouped.values()] == [["adam"]] * 3


# -- the table ------------------------------------------------------------------------------------


def test_a_row_gives_means_with_intervals(tmp_path):
    runs = [
        make_run(tmp_path, over(test_metric=0.5, best=0.6, to_target=10, seconds=2.0), seed=0),
        make_run(tmp_path, over(test_metric=0.7, best=0.6, to_target=20, seconds=4.0), seed=1),
    ]
    # Test: mean 0.6, deviation 0.1 √2, half width 0.1 t. Cost: mean 15, deviation 5 √2, width 5 t.
    # A run of 2 s and one of 4 s of 20 gradients each: 100 and 200 ms an evaluation.
    assert only_row(runs) == {
        "optimizer": "adam",
        "runs": "2",
        "test accuracy": f"0.6000 ± {0.1 * T_2:.4f}",
        "best validation accuracy": "0.6000 ± 0.0000",
        "reached 0.95": "2/2",
        "gradients to target": f"15 ± {5 * T_2:.0f}",
        "seconds to target": f"1.5 ± {0.5 * T_2:.1f}",
        "ms per gradient": "150.0",
        "status": "2 reached target",
    }


def test_a_target_missed_by_one_run_is_infinitely_far(tmp_path):
    runs = [make_run(tmp_path, over(to_target=10)), make_run(tmp_path, over(), seed=1)]
    row = only_row(runs)
    assert (row["reached 0.95"], row["gradients to target"]) == ("1/2", "∞")
    assert row["seconds to target"] == "∞"
    assert row["status"] == "1 reached target, 1 out of budget"


def test_a_target_missed_by_fewer_than_half_has_a_median(tmp_path):
    found = [over(to_target=40, seconds=8.0), over(to_target=10, seconds=2.0), over()]
    runs = [make_run(tmp_path, one, seed=seed) for seed, one in enumerate(found)]
    row = only_row(runs)
    assert (row["reached 0.95"], row["gradients to target"]) == ("2/3", "median 40")
    assert row["seconds to target"].startswith("median ")


def test_a_target_met_at_the_start_costs_nothing(tmp_path):
    row = only_row([make_run(tmp_path, over(to_target=0))])
    assert (row["reached 0.95"], row["gradients to target"]) == ("1/1", "0")


def test_unfinished_runs_are_counted_but_have_no_figures(tmp_path):
    row = only_row([make_run(tmp_path, {"status": "running"}, metrics=())])
    assert row["runs"] == "1"
    assert row["test accuracy"] == row["best validation accuracy"] == row["ms per gradient"] == "–"
    assert row["status"] == "1 running"


def test_unfinished_runs_do_not_move_the_others_figures(tmp_path):
    runs = [make_run(tmp_path, over(test_metric=0.5)), make_run(tmp_path, {"status": "running"}),
            make_run(tmp_path, {"status": "interrupted"})]  # fmt: skip
    row = only_row(runs)
    assert row["test accuracy"] == "0.5000"
    assert row["status"] == "1 out of budget, 1 running, 1 interrupted"


def test_a_diverged_run_keeps_its_figures(tmp_path):
    row = only_row([make_run(tmp_path, over() | {"status": "diverged"})])
    assert (row["test accuracy"], row["status"]) == ("0.5000", "1 diverged")


def test_a_run_without_a_step_has_no_price(tmp_path):
    row = only_row([make_run(tmp_path, over() | {"gradient_evaluations": 0, "seconds": 0.0})])
    assert row["ms per gradient"] == "–"


def test_headings_name_the_metric_and_the_target(tmp_path):
    (group,) = group_runs([make_run(tmp_path, task="counting")])["counting"]
    headings = set(report.columns([group]))
    assert {"test mse", "best validation mse", "reached 0.1"} <= headings


def test_a_run_that_noted_nothing_yet_is_reported_all_the_same(tmp_path):
    run = Run(RunConfig(), [], {"status": "running"}, tmp_path)
    write_report([run], tmp_path / "report")
    assert "1 running" in (tmp_path / "report" / "report.md").read_text()


def test_markdown_is_a_table_with_a_row_a_group(tmp_path):
    runs = [make_run(tmp_path, optimizer=name) for name in ("adam", "sgd", "muon")]
    groups = group_runs(runs)["digits-rows"]
    lines = report.markdown(groups).splitlines()
    assert len(lines) == 2 + 3
    assert lines[0].startswith("| optimizer | runs | test accuracy |")
    assert set(lines[1]) == {"|", "-"}
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| adam", "| sgd", "| muon"]
    assert len({line.count("|") for line in lines}) == 1
    assert "| 0.5000 |" in lines[2]


def test_a_report_needs_no_data(tmp_path, monkeypatch):
    # Reports are often made elsewhere than the runs, from the folders and nothing else.
    monkeypatch.setenv("RNNOPT_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "MIRRORS", ())
    run = make_run(tmp_path, task="mnist-rows")
    write_report([run], tmp_path / "report")
    assert "mnist-rows" in (tmp_path / "report" / "report.md").read_text()


# -- the figure -----------------------------------------------------------------------------------


def draw(runs, task="digits-rows"):
    """The figure of a task, its axes from top left to bottom right, and the legend's labels."""
    result = figure(task, group_runs(runs)[task])
    (legend,) = result.legends
    result.draw_without_rendering()
    return result, result.axes, [text.get_text() for text in legend.get_texts()]


def lines_of(axis):
    """The lines of the groups, by label; not the target's."""
    return {line.get_label(): line for line in axis.lines if "target" not in line.get_label()}


def test_figure_has_one_line_a_group_in_every_panel(tmp_path):
    names = [f"adam:eps=1e-{i}" for i in range(12)]
    runs = [make_run(tmp_path, optimizer=name, seed=seed) for name in names for seed in (0, 1)]
    figure, axes, legend = draw(runs)
    assert len(axes) == 4
    assert legend == [*names, "target 0.95"]
    looks = set()
    for axis in axes:
        assert list(lines_of(axis)) == names
        looks = {(line.get_color(), line.get_linestyle()) for line in lines_of(axis).values()}
        assert len(looks) == 12  # told apart
    assert "digits-rows" in figure.get_suptitle()


def test_axes_say_what_they_show(tmp_path):
    _, axes, _ = draw([make_run(tmp_path)])
    assert axes[0].get_ylabel() == "training loss (cross-entropy)"
    assert axes[2].get_ylabel() == "validation accuracy"
    assert axes[2].get_xlabel() == "gradient evaluations"
    assert axes[3].get_xlabel() == "training seconds"
    assert (axes[0].get_yscale(), axes[2].get_yscale()) == ("log", "linear")
    assert axes[2].get_ylim() == (0, 1)


def test_mean_squared_errors_are_drawn_on_a_log_axis(tmp_path):
    _, axes, _ = draw([make_run(tmp_path, task="counting")], "counting")
    assert (axes[0].get_yscale(), axes[2].get_yscale()) == ("log", "log")
    assert axes[2].get_ylabel() == "validation mse"


def test_the_target_is_marked_in_the_panels_of_the_metric(tmp_path):
    _, axes, _ = draw([make_run(tmp_path)])
    for axis, marked in zip(axes, (False, False, True, True), strict=True):
        levels = [set(line.get_ydata()) for line in axis.lines if "target" in line.get_label()]
        assert levels == [{0.95}] * marked


def test_no_text_lies_in_a_panel_where_curves_are(tmp_path):
    _, axes, legend = draw([make_run(tmp_path)])
    assert legend[-1] == "target 0.95"
    for axis in axes:
        assert not axis.texts
    ends = [axis.get_tightbbox() for axis in axes]  # with the labels of the ticks
    assert not any(a.overlaps(b) for a, b in combinations(ends, 2))


def test_a_log_axis_has_plain_numbers(tmp_path):
    _, axes, _ = draw([make_run(tmp_path, task="counting")], "counting")
    for axis in (axes[0], axes[2]):
        told = [label.get_text() for label in axis.get_yticklabels(which="both")]
        assert any(told)
        assert not any("e" in text for text in told)


def test_the_line_is_the_mean_and_the_band_its_interval(tmp_path):
    runs = [make_run(tmp_path, metrics=(0.2, 0.40, 0.60)),
            make_run(tmp_path, metrics=(0.2, 0.42, 0.64), seed=1)]  # fmt: skip
    _, axes, _ = draw(runs)
    line = lines_of(axes[2])["adam"]
    assert list(line.get_xdata()) == [0, 10, 20]
    assert list(line.get_ydata()) == pytest.approx([0.2, 0.41, 0.62])
    (band,) = (c for c in axes[2].collections if isinstance(c, PolyCollection))
    corners = band.get_paths()[0].vertices
    # Half the difference of two values times t.
    for x, middle, width in ((0, 0.2, 0), (10, 0.41, 0.01 * T_2), (20, 0.62, 0.02 * T_2)):
        heights = [y for (at, y) in corners if at == x]
        assert min(heights) == pytest.approx(middle - width)
        assert max(heights) == pytest.approx(middle + width)


def test_one_run_has_a_line_but_no_band(tmp_path):
    _, axes, _ = draw([make_run(tmp_path)])
    for axis in axes:
        assert list(lines_of(axis)) == ["adam"]
        assert not axis.collections


def test_the_training_loss_begins_where_there_is_one(tmp_path):
    _, axes, _ = draw([make_run(tmp_path)])
    assert list(lines_of(axes[0])["adam"].get_xdata()) == [10, 20]
    assert list(lines_of(axes[0])["adam"].get_ydata()) == pytest.approx([2, 1])


def test_every_group_is_in_the_legend_even_with_two_looks_alone(tmp_path):
    # At the start and at the end: two metrics, but only one training loss.
    runs = [make_run(tmp_path, metrics=(0.1, 0.2)), make_run(tmp_path, optimizer="sgd")]
    _, axes, legend = draw(runs)
    assert list(lines_of(axes[2])) == ["adam", "sgd"]
    assert legend == ["adam", "sgd", "target 0.95"]


def test_nothing_is_drawn_beyond_the_shortest_run(tmp_path):
    runs = [make_run(tmp_path, metrics=(0.1, 0.2)), make_run(tmp_path, seed=1)]
    _, axes, _ = draw(runs)
    line = lines_of(axes[2])["adam"]
    assert (min(line.get_xdata()), max(line.get_xdata())) == (0, 10)
    assert line.get_ydata()[-1] == pytest.approx(0.2)


def test_runs_whose_seconds_do_not_overlap_are_not_drawn_backwards(tmp_path):
    # A run that diverged after 2 s and a slower one whose first training loss came after 5 s.
    quick, slow = history((0.1, 0.2, 0.3), 1.0), history((0.1, 0.2, 0.3), 5.0)
    runs = [make_run(tmp_path, records=quick), make_run(tmp_path, records=slow, seed=1)]
    _, axes, _ = draw(runs)
    for axis in axes:
        for line in lines_of(axis).values():
            x = list(line.get_xdata())
            assert x == sorted(x)


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    runs = [make_run(tmp_path, task="counting", metrics=(5.0, 4.0, math.inf, math.nan))]
    _, axes, _ = draw(runs, "counting")
    assert list(lines_of(axes[2])["adam"].get_ydata()) == [5, 4]


def test_runs_without_records_make_an_empty_figure(tmp_path):
    runs = [make_run(tmp_path, {"status": "running"}, records=[])]
    paths = write_report(runs, tmp_path / "report")
    assert all(path.stat().st_size > 0 for path in paths)


# -- files ----------------------------------------------------------------------------------------


def test_one_task_gives_one_figure(tmp_path):
    paths = write_report([make_run(tmp_path)], tmp_path / "deep" / "report")
    assert [path.name for path in paths] == ["report.md", "report.png"]
    text = paths[0].read_text(encoding="utf-8")
    assert text.startswith("## digits-rows\n")
    assert "(report.png)" in text
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_two_tasks_give_two_tables_and_two_figures(tmp_path):
    runs = [make_run(tmp_path), make_run(tmp_path, task="counting:length=5")]
    text, *figures = write_report(runs, tmp_path / "report")
    assert len({path.name for path in figures}) == 2
    written = text.read_text()
    assert written.count("\n## ") + written.startswith("## ") == 2
    assert "| test accuracy |" in written
    assert "| test mse |" in written
    for path in figures:
        assert f"({path.name})" in written
        assert path.read_bytes().startswith(b"\x89PNG")
