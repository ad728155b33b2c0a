"""What docs/results promises: every packed run is finished, and its table is made of these runs."""

import importlib.util
from pathlib import Path

import pytest

from rnnopt.experiments import reproduce
from rnnopt.experiments.reproduce.results import lines_of, to_csv

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
    publish.publish("asnaq/figure-1", out)
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
