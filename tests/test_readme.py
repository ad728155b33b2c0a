"""The README promises what it shows: its example runs and prints what stands below it."""

from documents import blocks, run_python


def test_the_example_prints_what_the_readme_says():
    first = next(block for block in blocks("README.md") if block.language == "python")
    assert run_python(first, {}) == first.output
