"""What the scripts in benchmarks/ promise: each runs with --quick and prints a table."""

from pathlib import Path

import forks
import pytest
from cases import partly

pytestmark = pytest.mark.docs

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def test_there_are_benchmarks():
    assert SCRIPTS


@pytest.mark.parametrize("script", partly([s.name for s in SCRIPTS], ["step_cost.py"]))
def test_quick_run_ends_well_and_prints_a_table(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = forks.begin("forks:script", FOLDER / script, "--quick")
    out, error = done.communicate()
    assert done.returncode == 0, error
    lines = out.splitlines()
    rules = [i for i, line in enumerate(lines) if set(line) <= set("|-: ") and "---" in line]
    assert rules, out
    # A heading above the rule and at least one row below it, with as many cells each.
    for rule in rules:
        cells = lines[rule].count("|")
        assert lines[rule - 1].count("|") == lines[rule + 1].count("|") == cells
    assert list(tmp_path.iterdir()) == []  # nothing is left where it was started
