"""The README promises what it shows: its example runs and prints what stands below it."""

import contextlib
import io
import re
from pathlib import Path


def test_the_example_prints_what_the_readme_says():
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    code, expected = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.S).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == expected
