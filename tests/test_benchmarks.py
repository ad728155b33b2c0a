"""What the scripts in benchmarks/ promise: each runs with --quick and prints a table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def test_there_are_benchmarks():
    assert SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_quick_run_ends_well_and_prints_a_table(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rules = [i for i, line in enumerate(lines) if set(line) <= set("|-: ") and "---" in line]
    assert rules, done.stdout
    # A heading above the rule and at least one row below it, with as many cells each.
    for rule in rules:
        cells = lines[rule].count("|")
        assert lines[rule - 1].count("|") == lines[rule + 1].count("|") == cells
    assert list(tmp_path.iterdir()) == []  # nothing is left where it was started
