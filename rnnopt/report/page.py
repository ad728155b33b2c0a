"""The report as one page, report.html, that needs nothing else: no network, no script, no font.

Everything that comes from files and options goes through a template that escapes it, and a content
security policy in the page forbids what it could load or run. The page is legible in light and dark
mode, on a phone and on paper.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from rnnopt.config.data_config import DataConfig
from rnnopt.config.run_config import RunConfig
from rnnopt.config.version import VERSION
from rnnopt.report import folds, step_table
from rnnopt.report.best_weights import Findings, best_run, examine
from rnnopt.report.charts import curves, heat_map, profile, time_to_target
from rnnopt.report.figures import target_label
from rnnopt.report.importance import REPEATS, in_scale
from rnnopt.report.svg import key, to_svg
from rnnopt.report.tables import columns, reached, rows
from rnnopt.runs.calibration import line_of
from rnnopt.runs.collection import Group, Run, facts_of, group_runs
from rnnopt.runs.folder import RunFolder, write_atomically
from rnnopt.tasks import Task
from rnnopt.tasks.names import visible

NAME = "report.html"
LONGEST = 500  # characters of a setting
MOST_CLASSES = 30  # of a confusion matrix that can still be read


def write_page(runs: Sequence[Run], folder: Path, scores: bool = True) -> Path:
    """Writes report.html into `folder`; returns its path.

    Args:
        runs: what to report.
        folder: where the page goes; made if it is not there.
        scores: whether the best weights are examined on the test data, for which the data are
            needed and about as much time as the evaluation at the end of the runs took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    write_atomically(path, page(runs, datetime.now().astimezone(), scores).encode())
    return path


def page(runs: Sequence[Run], made: datetime, scores: bool = True) -> str:
    """The page as text; `made` is the date on it."""
    by_task = group_runs(runs)
    environments = [RunFolder(run.path).read_environment() for run in runs]
    system = _common(environments)
    configs = [run.config.to_dict() for run in runs]
    shared, differing = _settings(by_task)
    labels = dict.fromkeys(group.label for groups in by_task.values() for group in groups)
    numbers = {label: i for i, label in enumerate(labels)}  # of colours and dashes
    return _template().render(
        title=_title(by_task),
        numbers=numbers,
        facts=_facts(by_task, configs, system, made),
        sections=[_section(task, groups, numbers, scores) for task, groups in by_task.items()],
        profile=profile(by_task, numbers),
        repeats=REPEATS,
        several_tasks=len(by_task) > 1,
        shared=shared,
        differing=differing,
        system=system,
        css=resources.files("rnnopt.report").joinpath("templates/report.css").read_text("utf-8"),
        version=VERSION,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rnnopt.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(key=key, svg=to_svg, target=target_label)
    environment.filters["bars"] = in_scale
    environment.filters["breakable"] = _breakable
    environment.filters["score"] = lambda value: "–" if math.isnan(value) else f"{value:.3f}"
    return environment.get_template("report.html")


def _visible(value: Any) -> Any:
    """A text with what would turn its line round, or is no character of a page, written out."""
    return visible(value) if type(value) is str else value  # markup is of another type


def _breakable(text: str) -> Markup:
    """`text`, escaped, that may be broken into lines behind its commas, colons and slashes."""
    # Entities hold none of these characters: &amp; &lt; &gt; &#34; &#39;
    return Markup(re.sub("([,:/])", r"\1<wbr>", str(escape(visible(text)))))


# -- the head --------------------------------------------------------------------------------------


def _title(by_task: dict[str, list[Group]]) -> str:
    """What was compared, short enough for a heading."""
    names = list(dict.fromkeys(group.label for groups in by_task.values() for group in groups))
    tasks = ", ".join(by_task) if len(by_task) <= 3 else f"{len(by_task)} tasks"
    if len(names) <= 3 and sum(map(len, names)) <= 60:
        return f"{' and '.join([', '.join(names[:-1]), names[-1]][len(names) < 2 :])} on {tasks}"
    return f"{len(names)} optimizers on {tasks}"


def _facts(
    by_task: dict[str, list[Group]],
    configs: list[dict[str, Any]],
    system: dict[str, str],
    made: datetime,
) -> dict[str, str]:
    """The lines at the head of the page."""

    def all_of(field: str) -> str:
        return ", ".join(dict.fromkeys(str(config[field]) for config in configs))

    summaries = [f"{task}: {facts_of(groups)['summary']}" for task, groups in by_task.items()]
    versions = [
        f"{name} {system[name]}" for name in ("rnnopt", "torch", "python") if name in system
    ]
    return {
        "task": "; ".join(summaries),
        "model": all_of("model"),
        "budget": all_of("budget"),
        "seeds": all_of("seed"),
        "runs": str(len(configs)),
        "made": made.strftime("%Y-%m-%d %H:%M %Z"),
        "trained with": ", ".join(versions) or "not noted",
    }


# -- a task ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Examined:
    """What the best weights of groups do, by label, and the labels without any, by the reason."""

    found: dict[str, Findings]
    missing: dict[str, list[str]]


def _section(
    task: str, groups: Sequence[Group], numbers: dict[str, int], scores: bool
) -> dict[str, Any]:
    """What the template needs of one task."""
    examined = _examine(groups) if scores else Examined({}, {})
    return dict(
        task=task,
        facts=facts_of(groups),
        labels=[group.label for group in groups],
        reached={group.label: reached(group) for group in groups},
        columns=columns(groups),
        rows=rows(groups),
        folds={
            group.label: dict(head=folds.headings(group.runs), rows=folds.rows(group.runs))
            for group in groups
            if folds.has_folds(group)
        },
        steps={
            group.label: dict(
                head=step_table.headings(group.runs), rows=step_table.rows(group.runs)
            )
            for group in groups
            if step_table.has_scores(group)
        },
        curves=[chart for chart in curves(groups, numbers) if chart.lines],
        to_target=time_to_target(groups, numbers),
        examined=examined,
        scored={label: f for label, f in examined.found.items() if f.scores is not None},
        calibrated={
            label: line_of(found.run.result["calibration"])
            for label, found in examined.found.items()
            if "calibration" in found.run.result
        },
        importance={
            label: found.importance
            for label, found in examined.found.items()
            if found.importance is not None
        },
        most_classes=MOST_CLASSES,
        heat=heat_map(examined.found),
    )


def _examine(groups: Sequence[Group]) -> Examined:
    found: dict[str, Findings] = {}
    missing: dict[str, list[str]] = {}
    tasks: dict[tuple, Task] = {}  # groups of one name may differ in data of the user's own
    for group in groups:
        run = best_run(group)
        if run is None:
            missing.setdefault("no run is over", []).append(group.label)
            continue
        try:
            data = tuple(getattr(run.config, field.name) for field in fields(DataConfig))
            found[group.label], tasks[data] = examine(run, tasks.get(data))
        except Exception as error:  # one damaged file, or data elsewhere, costs no whole report
            reason = (str(error) or type(error).__name__).splitlines()[0]
            missing.setdefault(reason, []).append(group.label)
    return Examined(found, missing)


# -- settings and system ---------------------------------------------------------------------------


def _settings(
    by_task: dict[str, list[Group]],
) -> tuple[dict[str, str], dict[str, Any]]:
    """Settings that all groups share, and a table of those in which they differ."""
    groups = [group for groups in by_task.values() for group in groups]
    saved = [group.runs[0].config.to_dict() for group in groups]
    names = [field.name for field in fields(RunConfig) if field.name not in ("seed", "fold")]
    differing = [name for name in names if len({config[name] for config in saved}) > 1]
    shared = {name: _shown(saved[0][name]) for name in names if name not in differing}
    table = [
        dict(
            label=group.label,
            values=[_shown(config[name]) for name in differing],
            seeds=", ".join(str(run.config.seed) for run in group.runs),
        )
        for group, config in zip(groups, saved, strict=True)
    ]
    return shared, dict(columns=differing, rows=table)


def _shown(value: Any, nothing: str = "unset") -> str:
    """A setting as text; `nothing` stands for None."""
    if value is None:
        return nothing
    if isinstance(value, tuple):
        value = ", ".join(value) or nothing
    told = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return told if len(told) <= LONGEST else told[: LONGEST - 1] + "…"


def _common(environments: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Each entry of the environments once, or all that it was; of loads the least and highest."""
    names = dict.fromkeys(name for environment in environments for name in environment)
    found = {
        name: ", ".join(
            dict.fromkeys(_shown(each[name], "none") for each in environments if name in each)
        )
        for name in names
    }
    loads = [each["load"] for each in environments if isinstance(each.get("load"), float)]
    if len(set(loads)) > 1:
        found["load"] = f"{min(loads)} to {max(loads)}"
    return found
