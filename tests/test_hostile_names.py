"""What names from files and folders must not do: steer a terminal, a page, a figure or a table.

That names which steer are refused in data is promised in test_hostile_files.py.
"""

import io
import json

import numpy as np
import pytest
from cases import partly
from made_runs import make_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_report_page import page_of

from rnnopt.cli.printing import print_lines
from rnnopt.cli.terminal import (
    PlainConsole,
    console,
    errors,
    print_error,
    print_line,
    progress_bars,
)
from rnnopt.report.data_figure import draw
from rnnopt.report.figures import figure
from rnnopt.report.style import any_script
from rnnopt.report.tables import markdown
from rnnopt.runs.collection import group_runs, read_runs
from rnnopt.runs.folder import RunFolder
from rnnopt.tasks.names import for_markdown, plain, visible
from rnnopt.tasks.user_data.recordings import recordings

NASTY = [
    "<script>alert(1)</script>", "</script><script>x", "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)", "{{ 7 * 7 }}{% raw %}", "a\0b", "a\u202eb\u2066c", "\u05d0\u05d1",
    "x" * 5000, "$\\frac{1}{$", "a$b$c", "$", "\\$x$", "[red]x[/red]", "[/]",
    "[link=file:///x]y[/link]",
    ":smile:", "a\x1b[31mb\x1b]0;t\x07", "a\nb", "a|b|c", "-rf", "../../x", "_hidden", "走る",
    "%s%n",
]  # fmt: skip


def run_called(tmp_path, name):
    """A run whose names are all the same."""
    result = dict(summary=name, metric=name, loss=name, target=0.5, status=name)
    run = make_run(tmp_path, result, optimizer=name)
    object.__setattr__(run.config, "task", name)
    return run


@pytest.mark.parametrize("name", NASTY)
def test_a_page_shows_a_name_and_does_nothing_else(tmp_path, name):
    found = page_of([run_called(tmp_path, name)])
    assert not {"script", "img", "iframe", "object", "link"} & {tag for tag, _ in found.elements}
    attributes = [(key, value) for _, a in found.elements for key, value in a.items()]
    assert not any(key.startswith("on") or key in ("src", "srcdoc") for key, _ in attributes)
    assert all(value.startswith("#") for key, value in attributes if key == "href")
    assert not set("\0\x1b\u202e\u2066") & set(found.text)
    assert "".join(visible(name).split()) in "".join(found.text.split())
    policies = [a["content"] for a in found.all("meta") if "http-equiv" in a]
    assert [policy.split(";")[0] for policy in policies] == ["default-src 'none'"]


@pytest.mark.parametrize("name", NASTY)
def test_a_name_fits_into_a_markdown_table(tmp_path, name):
    (groups,) = group_runs([run_called(tmp_path, name)]).values()
    lines = markdown(groups).splitlines()
    assert len(lines) == 3
    bars = [line.replace("\\|", "").count("|") for line in lines]
    assert bars == [10, 10, 10]
    assert "<script" not in markdown(groups).replace("\\<", "")
    assert for_markdown("adam:lr=0.1,inner_steps=2") == "adam:lr=0.1,inner_steps=2"


@pytest.mark.parametrize("name", partly(NASTY, NASTY[::8]))
def test_figures_are_drawn_with_any_name(tmp_path, name):
    (groups,) = group_runs([run_called(tmp_path, name)]).values()
    whole = figure(name, groups)
    texts = [text.get_text() for legend in whole.legends for text in legend.get_texts()]
    if name[0] != "_":  # such labels matplotlib keeps to itself
        assert texts == [*(plain(group.label) for group in groups), "target 0.5"]
    safe = visible(name)[:200].strip() or "x"
    data = recordings(
        [np.ones((3, 2)) * i for i in range(4)], [safe, "b", safe, "b"], channels=[safe, "c"]
    )
    for drawn in (whole, draw(data, name)):
        with any_script():
            FigureCanvasAgg(drawn).draw()


def test_dollars_are_no_formula_and_long_names_are_cut():
    from matplotlib.cbook import is_math_text

    for name in NASTY:
        assert not is_math_text(plain(name))
        assert len(plain(name).replace("\\$", "$")) <= 80 + 12  # what is written out is longer
    assert plain("short") == "short"


@pytest.mark.parametrize("name", NASTY)
def test_nothing_steers_the_terminal(capsys, name):
    print_line(name)
    print_error(name)
    print_lines([(name, name), ("more", "x")], name)
    with progress_bars() as bars:
        bars.update(bars.add_task(name, total=1.0, note=name), completed=1.0)
    told = "".join(capsys.readouterr())
    assert not set("\0\x1b\x07\u202e\u2066") & set(told)
    shown = visible(name.replace("\a", "").partition("\n")[0])  # a bell is left out
    if len(name) < 40:
        assert shown in told


@pytest.mark.parametrize("name", ["a\x1b[31mb\x1b]0;t\x07", "[red]x[/red]", ":smile:"])
def test_colours_are_the_consoles_own(name):
    shown = PlainConsole()
    shown.file, shown._force_terminal = io.StringIO(), True
    shown._color_system = None
    shown.print(name, style="red")
    assert visible(name.replace("\a", "")) in shown.file.getvalue()
    assert "\x1b]0" not in shown.file.getvalue()


def test_both_consoles_are_plain():
    assert isinstance(console, PlainConsole)
    assert isinstance(errors, PlainConsole)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("result.json", {"status": "over", "test_metric": "x"}, "test_metric must be a number"),
        ("result.json", {"status": "over", "best": [1]}, "best must be an object"),
        ("result.json", {"status": "over", "best": {"a": 1}}, "must have a validation_metric"),
        ("result.json", {"status": "over", "summary": {}}, "summary must be a text"),
        ("result.json", {"status": "over", "target": 10**400}, "target must be a number"),
        ("metrics.jsonl", {"gradient_evaluations": "many"}, "look 1 must be an object"),
    ],
)
def test_a_saved_run_of_another_form_is_refused(tmp_path, file, content, sentence):
    from rnnopt.config.errors import UserError
    from rnnopt.config.run_config import RunConfig

    folder = RunFolder.create(tmp_path / "run", RunConfig(task="digits-rows"))
    (folder.path / "environment.json").unlink()  # a folder of before there were checksums
    (folder.path / file).write_text(json.dumps(content) + "\n")
    with pytest.raises(UserError, match=sentence):
        read_runs([folder])


def test_a_result_without_seconds_makes_a_row(tmp_path):
    (groups,) = group_runs(
        [make_run(tmp_path, dict(status="over", gradient_evaluations=3))]
    ).values()
    assert "| 1 over |" in markdown(groups)


@pytest.mark.parametrize("name", ["[/]", "a\x1b[31mb", "<b>|$x$", ":smile:"])
def test_a_report_of_a_run_with_such_names_is_written(tmp_path, command, name):
    from rnnopt.config.run_config import RunConfig

    folder = RunFolder.create(tmp_path / "run", RunConfig(task="digits-rows", optimizer=name))
    folder.write_result(dict(status=name, summary=name, metric=name, loss=name, target=1.0))
    code, out, err = command("report", folder.path, "--no-scores")
    assert (code, err) == (0, "")
    assert visible(name)[:4] in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "name", ["../up", "/tmp/x", "-a", "a\nb", "a\x1b[1mb", "a\0b", "con\u202ex"]
)
def test_no_name_of_a_task_or_optimizer_makes_a_folder(tmp_path, monkeypatch, command, name):
    monkeypatch.chdir(tmp_path)
    for option in ("task", "optimizer"):
        code, _, err = command("train", f"--{option}={name}", "--budget", "1gradients")
        assert code == 2
        assert "\x1b" not in err
    assert list(tmp_path.rglob("*")) == []
