"""What the site promises: it builds without a warning and asks nothing of the network, every
public name is in its reference, its examples run, its figures stand in the measurements.

Examples in Python run as they are, in order, and print what stands below them. Commands run with a
smaller budget, and their lines are compared but for the numbers.
"""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cases import partly
from documents import ROOT, blocks, run_python
from page_commands import run_shell, write_files

import rnnopt
from rnnopt import tasks
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments import reproduce

pytestmark = pytest.mark.docs
RUN = [
    "docs/index.md",
    "docs/tutorial.md",
    "docs/methods/frank-wolfe.md",
    "docs/methods/quasi-newton.md",
    "docs/methods/admm.md",
    "docs/own-data.md",
    "docs/recordings.md",
    "docs/every-step.md",
    "docs/own-optimizer.md",
    "docs/tuning.md",
    "docs/api/layers.md",
]
SHORT = ["docs/index.md", "docs/methods/frank-wolfe.md"]
MEASURED = ["README.md", "docs/results.md", "docs/experiment-log.md", "docs/own-data.md"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, with the digits of the tutorial in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "78")
    monkeypatch.setenv("NO_COLOR", "1")
    run_python(next(b for b in blocks("docs/tutorial.md") if b.language == "python"), {})
    return tmp_path


@pytest.mark.filterwarnings("ignore")  # MLflow and SQLAlchemy warn of themselves
@pytest.mark.parametrize("page", partly(RUN, SHORT))
def test_the_examples_of_a_page_run_and_print_what_it_says(page, workplace, command):
    names: dict[str, object] = {}
    if page == "docs/own-data.md":  # which speaks of files that the reader has
        write_files(workplace)
    if page == "docs/own-optimizer.md":  # which asks the reader to save these
        files = [block.code for block in blocks(page) if block.language == "python"]
        for name, code in zip(("my_optimizer.py", "wrapped.py"), files, strict=True):
            Path(name).write_text(code)
    for block in blocks(page):
        if block.needs and not Path(os.environ.get("RNNOPT_DATA", ""), block.needs).is_dir():
            continue
        if block.language == "bash":
            run_shell(block, command)
        else:
            assert run_python(block, names) == (block.output or "")


def test_commands_that_take_hours_name_what_there_is():
    # What benchmarks do is promised in test_benchmarks.py, what tables do in test_reproduce.py.
    tables = {item.name for item in reproduce.ALL} | {"list"}
    known = {field.name for field in fields(RunConfig)} | {"out", "resume"}
    shown = []
    for page in MEASURED[1:3] + ["docs/performance.md", "docs/scaling.md", "docs/security.md"]:
        lines = "".join(block.code for block in blocks(page)).replace("\\\n", " ").splitlines()
        for words in (shlex.split(line, comments=True) for line in lines if " " in line):
            if words[0] == "pip":
                continue
            shown.append(words[0])
            if words[0] == "rnnopt":
                assert words[1] == "reproduce"
                assert words[2] in tables
                continue
            if words[0] == "torchrun" and "rnnopt" in words:  # as in test_several_processes.py
                options = words[words.index("rnnopt") + 2 :]
                assert {w[2:].replace("-", "_") for w in options if w[:2] == "--"} <= known, words
                continue
            script = ROOT / next(word for word in words if word.endswith(".py"))
            text = script.read_text(encoding="utf-8")
            options = words[words.index(str(script.relative_to(ROOT))) + 1 :]
            assert [w for w in options if w[:2] == "--" and f'"{w}"' not in text] == [], words
    assert len(shown) >= 12


@pytest.mark.parametrize("page", [*RUN, "docs/choosing.md"])
def test_means_with_intervals_stand_in_the_measurements(page):
    figure = r"\d+(?:\.\d+)? ± \d+(?:\.\d+)?"
    measured = set()
    for source in MEASURED:
        measured |= set(re.findall(figure, (ROOT / source).read_text(encoding="utf-8")))
    # The tutorial's comparison is an example, made by the command above it.
    text = re.sub(r"(?m)^\| \S+:lr=.*$", "", (ROOT / page).read_text(encoding="utf-8"))
    assert set(re.findall(figure, text)) <= measured


def test_every_public_name_is_in_the_reference():
    pages = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "docs/api").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)", pages, re.MULTILINE))
    for module in (rnnopt, tasks):
        source = Path(module.__file__).read_text(encoding="utf-8")
        public = re.findall(r"import (\w+) as \1", source)
        assert len(public) > 10
        for name in public:
            value = getattr(module, name)
            places = {f"{module.__name__}.{name}", f"{value.__module__}.{name}"}
            assert places & documented, f'add "::: {module.__name__}.{name}" to a page in docs/api'


class Addresses(HTMLParser):
    """Collects what a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.loaded.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(values.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a warning, such as of a broken link, ends the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        found = Addresses()
        found.feed(page.read_text(encoding="utf-8"))
        assert found.loaded
        assert [a for a in found.loaded if re.match(r"(https?:)?//", a)] == [], page
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", sheet.read_text()) == []


def test_formulas_are_drawn_and_none_is_left_as_text(site):
    for name in ("frank-wolfe", "quasi-newton", "admm"):
        page = (site / "methods" / name / "index.html").read_text(encoding="utf-8")
        assert page.count("<math") > 10
        article = page[page.index("<article") : page.index("</article>")]
        assert "arithmatex" not in article
        assert "$" not in re.sub(r"<pre.*?</pre>", "", article, flags=re.DOTALL)
