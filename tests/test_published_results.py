"""What docs/results promises: every packed run is finished, and its table is made of these runs."""

import importlib.util
import re
import tarfile
from pathlib import Path

import pytest

from rnnopt.config.errors import UserError
from rnnopt.experiments import reproduce
from rnnopt.experiments.reproduce.results import lines_of, to_csv
from rnnopt.runs.folder import RunFolder

FOLDER = Path(__file__).parent.parent / "docs/results"
ARCHIVES = sorted(FOLDER.glob("runs/*.tar.xz"))
STUDIES = {one.name.replace("/", "-"): one for one in reproduce.ALL}


@pytest.fixture(scope="module")
def publish():
    """The script docs/results/publish.py."""
    spec = importlib.util.spec_from_file_location("publish", FOLDER / "publish.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_a_table_is_made_of_the_runs_beside_it(archive, publish, tmp_path):
    name = archive.name.removesuffix(".tar.xz")
    study = STUDIES[name]
    publish.restore(study.name, tmp_path)
    table = to_csv(lines_of(study, study.forms["cpu"], tmp_path))
    assert table == (FOLDER / f"{name}.csv").read_text()


def test_a_page_gets_one_section_and_keeps_the_others(publish, tmp_path, monkeypatch, command):
    monkeypatch.setattr(publish, "HERE", tmp_path / "docs/results")
    publish.HERE.mkdir(parents=True)
    page = tmp_path / "docs/results.md"
    page.write_text(
        "# Results\n\n## a/b: c\n\nx\n\n## asnaq/figure-1: old\n\nold\n\n## d/e: f\n\ny\n"
    )
    out = tmp_path / "out"
    asked = ("reproduce", "asnaq/figure-1", "--quick", "--out", out, "--workers", "1")
    code, _, error = command(*asked)
    assert code == 0, error
    only = (*asked, "--only", "rnnopt ASNAQ")
    assert command(*only)[0] == 0  # the page has the whole table all the same
    publish.publish("asnaq/figure-1", out, "quick")
    sections = page.read_text().split("\n## ")
    assert [sections[0], sections[1], sections[3]] == [
        "# Results\n",
        "a/b: c\n\nx\n",
        "d/e: f\n\ny\n",
    ]
    assert sections[2] == (out / "results.md").read_text().removeprefix("## ").replace(
        "figure.png", "results/asnaq-figure-1.png"
    )
    packed = publish.HERE / "runs/asnaq-figure-1.tar.xz"
    first = packed.read_bytes()
    again = tmp_path / "again"
    publish.restore("asnaq/figure-1", again)
    code, _, error = command(*asked[:3], "--out", again, "--workers", "1")
    assert code == 0, error
    assert not list(again.rglob("*.pt"))  # nothing was trained
    for file in ("results.csv", "results.md", "figure.png"):
        assert (again / file).read_bytes() == (out / file).read_bytes()
    publish.pack(again, packed)
    assert packed.read_bytes() == first


def test_a_figure_of_another_tables_runs_is_published_alone(publish, tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "HERE", tmp_path / "docs/results")
    publish.HERE.mkdir(parents=True)
    page = tmp_path / "docs/results.md"
    page.write_text("## frank-wolfe/table-3: a\n\n## frank-wolfe/figure-6: b\n")
    own = tmp_path / "out/figure-6"
    own.mkdir(parents=True)
    (tmp_path / "out/results.md").write_text("## frank-wolfe/table-3: new\n")
    (tmp_path / "out/results.csv").write_text("x\n")
    picture = "![frank-wolfe/figure-6: b](figure.png)\n"
    (own / "results.md").write_text(
        f"## frank-wolfe/figure-6: new\n\nThe paper: c.\n\n| a |\n|---|\n\n- d\n\n{picture}"
    )
    (own / "results.csv").write_text("x\n")
    (own / "figure.png").write_bytes(b"drawn")
    publish.publish("frank-wolfe/figure-6", tmp_path / "out")
    assert page.read_text() == (
        "## frank-wolfe/table-3: a\n\n## frank-wolfe/figure-6: new\n\nThe paper: c.\n\n"
        "Table and remarks: frank-wolfe/table-3, from the same runs.\n\n"
        "![frank-wolfe/figure-6: b](results/frank-wolfe-figure-6.png)\n"
    )
    assert [path.name for path in publish.HERE.iterdir()] == ["frank-wolfe-figure-6.png"]


def test_what_is_not_finished_is_left_out_of_the_page(publish):
    head = "| method | published | ours |\n|---|---|---|\n"
    done, begun = "| Adam | – | 0.5 |\n", "| SGD | – | – |\n"
    printed = "| coRNN | 99.4 | – |\n"
    first, note = f"## a/b: c\n\n### A\n\n{head}", "\n- note – |\n"
    text = f"{first}{begun}{done}{printed}\n### B\n\n{head}{begun}{begun}{note}"
    assert publish.finished(text) == f"{first}{done}{printed}{note}"


@pytest.mark.parametrize(
    ("name", "heading", "words"),
    [
        ("asnaq/figure-1", "## asnaq/figure-2: x", "has no section asnaq/figure-1"),
        ("asnaq/figure-2", "## asnaq/figure-2: x", "has no section asnaq/figure-2"),
        ("asnaq/figure-1", None, "has no results.md of rnnopt reproduce asnaq/figure-1"),
        ("nope", None, "has no results.md of rnnopt reproduce nope"),
    ],
)
def test_what_is_not_of_a_table_is_not_published(
    publish, tmp_path, monkeypatch, name, heading, words
):
    monkeypatch.setattr(publish, "HERE", tmp_path / "docs/results")
    publish.HERE.mkdir(parents=True)
    page = tmp_path / "docs/results.md"
    page.write_text("## asnaq/figure-1: y\n")
    out = tmp_path / "out"
    out.mkdir()
    if heading is not None:
        (out / "results.md").write_text(heading)
    with pytest.raises(UserError, match=words):
        publish.publish(name, out)
    assert page.read_text() == "## asnaq/figure-1: y\n"
    assert list(publish.HERE.iterdir()) == []


def test_runs_are_restored_over_nothing(publish, tmp_path):
    with pytest.raises(UserError, match="there are no runs of nope, only of"):
        publish.restore("nope", tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match="has runs: choose another folder"):
        publish.restore("asnaq/figure-1", tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["runs"]


def test_a_run_that_failed_is_not_packed(publish, tmp_path, command):
    out = tmp_path / "out"
    asked = ("reproduce", "asnaq/figure-1", "--quick", "--only", "adaQN, as printed", "--out", out)
    code, _, error = command(*asked, "--workers", "1")
    assert code == 0, error
    first, second = sorted(out.rglob("result.json"))
    RunFolder.open(second.parent).write_result({"status": "failed", "error": "x"})
    publish.pack(out, tmp_path / "a.tar.xz")
    with tarfile.open(tmp_path / "a.tar.xz") as packed:
        folders = {Path(name).parent for name in packed.getnames()}
    assert folders == {first.parent.relative_to(out)}


def test_figures_of_the_claims_stand_in_a_table_below():
    page = (FOLDER.parent / "results.md").read_text()
    claims, tables = page.split("## Which claims hold")[1].split("\n## ", 1)
    verdicts = re.sub(r"\(https[^)]*\)", "", claims)
    assert not [one for one in re.findall(r"\d+\.\d+", verdicts) if one not in tables]
