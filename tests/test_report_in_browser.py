"""What a reader sees of report.html, in a real browser: light, dark, on a phone, on paper.

Driven by playwright with a Chromium that is installed already; left out where there is none.
"""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from made_runs import make_run, over

from rnnopt.config.run_config import RunConfig
from rnnopt.report.page import write_page
from rnnopt.runs import runner
from rnnopt.runs.collection import read_runs
from rnnopt.runs.folder import RunFolder

pytestmark = pytest.mark.process
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"desktop": (1200, 900), "phone": (360, 740)}
OPTIMIZERS = (
    "adam",
    "frank-wolfe:norm=2,inner_steps=5,outer=adam,momentum=0,lr=0.01,average=none",
    *(f"sgd:lr=0.{i}" for i in range(1, 8)),
)
HARM = "<script>alert(1)</script><img src=x onerror=alert(2)>"

# Ratio of contrast between each piece of text, or line, and what is painted behind it.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = color => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); };
  const luminance = () => {
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ratio = (element, color) => {
    const behind = [];
    for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e));
    paint('white');
    behind.forEach(style => paint(style.backgroundColor));
    const back = luminance();
    paint(color);
    const front = luminance();
    return (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
  };
  const texts = [...document.body.querySelectorAll('*')].filter(e =>
    [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.tagName !== 'title');
  const of = e => e.tagName === 'text' ? getComputedStyle(e).fill : getComputedStyle(e).color;
  const lines = [...document.querySelectorAll('.line path')];
  return {
    texts: Math.min(...texts.map(e => ratio(e, of(e)))),
    lines: Math.min(...lines.map(e => ratio(e, getComputedStyle(e).stroke))),
    looks: new Set(lines.map(e => getComputedStyle(e).stroke + getComputedStyle(e).strokeDasharray))
      .size,
  };
}"""
# Pairs of labels of a chart that touch, and the height of the smallest letters.
LABELS = """() => {
  const touching = [];
  let smallest = Infinity;
  for (const chart of document.querySelectorAll('svg.chart')) {
    const texts = [...chart.querySelectorAll('text')];
    const boxes = texts.map(e => e.getBoundingClientRect());
    const scale = chart.getBoundingClientRect().width / chart.viewBox.baseVal.width;
    texts.forEach((e, i) => {
      smallest = Math.min(smallest, scale * parseFloat(getComputedStyle(e).fontSize));
      for (let j = 0; j < i; j++) {
        const [a, b] = [boxes[i], boxes[j]];
        const apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top
          || b.bottom <= a.top;
        if (!apart) touching.push([e.textContent, texts[j].textContent]);
      }
    });
  }
  return {touching, smallest};
}"""
EMPTY = """() => [...document.querySelectorAll('svg')].map(e => e.getBoundingClientRect())
  .filter(box => !(box.width > 10 && box.height > 5)).length"""


@pytest.fixture(scope="module")
def browser():
    """A running browser."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=OPTIONS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of real runs of two tasks and made-up ones, one of them hostile."""
    place = tmp_path_factory.mktemp("page")
    folders = []
    for task, model in (("digits-rows", "gru"), ("counting:length=5", "rnn")):
        for optimizer in OPTIMIZERS[:2]:
            path = place / f"run-{len(folders)}"
            config = RunConfig(
                task=task, model=model, layers=2, hidden=5, budget="12gradients",
                optimizer=optimizer, evaluate_every=2,
            )  # fmt: skip
            runner.run(config, path)
            folders.append(RunFolder.open(path))
    x, y = np.random.default_rng(0).normal(size=(40, 12)), np.arange(40) % 2
    lines = [f"id,{HARM},{'long ' * 12},label"]
    lines += [f"{i},{a + y[i]:.3f},{a:.3f},{'ab'[y[i]]}" for i in range(40) for a in x[i]]
    (place / "own.csv").write_text("\n".join(lines) + "\n")
    config = RunConfig(
        data=str(place / "own.csv"), model="gru", hidden=5, budget="12gradients", calibrate=True
    )
    runner.run(config, place / "own")
    folders.append(RunFolder.open(place / "own"))
    runs = read_runs(folders)
    for i, optimizer in enumerate(OPTIMIZERS):
        for seed in (1, 2):
            metrics = [0.1, 0.2 + 0.05 * i, 0.3 + 0.05 * i + 0.02 * seed]
            settings = dict(optimizer=optimizer, seed=seed, metrics=metrics, task="digits-rows")
            ended = over(to_target=10 + i * seed if i % 3 else None)
            runs.append(make_run(place, ended, model="gru", layers=2, hidden=5, **settings))
    (place / "hostile").mkdir()
    (place / "hostile" / "environment.json").write_text(json.dumps({"gpu": HARM}))
    hostile = make_run(place / "hostile", over(), optimizer=f"adam:{HARM}")
    hostile.result["summary"] = HARM
    return write_page([*runs, hostile], place)


@contextmanager
def shown(browser, report, size="desktop", scheme="light"):
    """The page in a window, all details open; nothing may be loaded, logged or asked."""
    width, height = SIZES[size]
    page = browser.new_page(viewport=dict(width=width, height=height), color_scheme=scheme)
    wrong, loaded = [], []
    for event in ("console", "pageerror", "dialog", "requestfailed"):
        page.on(event, lambda what, event=event: wrong.append((event, str(what))))
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    yield page
    page.close()
    assert wrong == []
    assert loaded == [report.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_legible(browser, report, size, scheme):
    with shown(browser, report, size, scheme) as page:
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
        contrast = page.evaluate(CONTRAST)
        assert contrast["texts"] >= 4.5
        assert contrast["lines"] >= 3
        assert contrast["looks"] >= len(OPTIMIZERS)
        labels = page.evaluate(LABELS)
        assert labels["touching"] == []
        assert labels["smallest"] >= 10  # pixels
        assert page.evaluate(EMPTY) == 0
        assert page.evaluate("document.querySelectorAll('.bar').length") == 2 + 10
        assert "calibrated by temperature" in page.inner_text("body")
        assert page.evaluate("document.querySelectorAll('svg.chart').length") >= 10


@pytest.mark.parametrize("size", SIZES)
def test_no_page_scrolls_sideways_but_wide_tables_do(browser, report, size):
    with shown(browser, report, size) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        boxes = "[...document.querySelectorAll('.scroll')]"
        wide = page.evaluate(f"{boxes}.some(e => e.scrollWidth > e.clientWidth)")
        assert wide or size == "desktop"
        assert page.evaluate(f"{boxes}.every(e => e.getBoundingClientRect().right <= innerWidth)")


def test_markup_in_names_stays_text(browser, report):
    with shown(browser, report) as page:
        assert page.evaluate("document.scripts.length + document.images.length") == 0
        assert HARM in page.inner_text("body")


def test_a_script_that_got_in_would_not_run(browser, report, tmp_path):
    # The second defence: the page's own policy.
    harmed = tmp_path / "harmed.html"
    script = "<script>document.title = 'harmed'</script></body>"
    harmed.write_text(report.read_text("utf-8").replace("</body>", script), "utf-8")
    page = browser.new_page()
    page.goto(harmed.as_uri())
    assert page.title() != "harmed"
    page.close()


def test_details_open_by_the_keyboard(browser, report):
    with shown(browser, report) as page:
        last = page.locator("details").last
        last.locator("summary").focus()
        page.keyboard.press("Enter")
        assert last.get_attribute("open") is None
        page.keyboard.press("Space")
        assert last.get_attribute("open") is not None


def test_paper_is_white_and_shows_what_was_folded(browser, report):
    with shown(browser, report, scheme="dark") as page:
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = false)")
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)"
        )
        folded = "[...document.querySelectorAll('details dl, details table')]"
        assert page.evaluate(f"{folded}.every(e => e.checkVisibility())")
        assert page.evaluate(CONTRAST)["texts"] >= 4.5
