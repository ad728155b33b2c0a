"""Cross-validation as a table: a row a fold, and their mean with its 95 % Student interval."""

from collections.abc import Sequence

from rnnopt.report.statistics import mean_and_width
from rnnopt.runs.collection import Group, Run
from rnnopt.tasks.names import for_markdown

MEAN = "mean ± 95 % interval"


def has_folds(group: Group) -> bool:
    """Whether the runs of a group are folds."""
    return any(run.config.fold is not None for run in group.runs)


def headings(runs: Sequence[Run]) -> list[str]:
    """Headings of `rows`."""
    name = next((run.result["metric"] for run in runs if "metric" in run.result), "metric")
    head = ["fold", f"test {name}", f"best validation {name}", "gradients", "seconds", "status"]
    return [*head[:1], "seed", *head[1:]] if _several_seeds(runs) else head


def rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row of text a run, in the order of folds, and one with the means if there are several."""
    ordered = sorted(runs, key=lambda run: (run.config.fold or 0, run.config.seed))
    seeds = _several_seeds(runs)
    found = []
    for run in ordered:
        result = run.result
        best = result.get("best") or {}
        row = [
            f"{run.config.fold} of {run.config.folds}",
            *([str(run.config.seed)] if seeds else []),
            _shown(result.get("test_metric")),
            _shown(best.get("validation_metric")),
            f"{result['gradient_evaluations']:.6g}" if "gradient_evaluations" in result else "–",
            f"{result['seconds']:.1f}" if "seconds" in result else "–",
            str(result.get("status", "–")),
        ]
        found.append(row)
    tests = [run.result["test_metric"] for run in ordered if "test_metric" in run.result]
    if len(tests) > 1:
        best = [
            run.result["best"]["validation_metric"] for run in ordered if run.result.get("best")
        ]
        mean = [MEAN, *([""] if seeds else []), _interval(tests), _interval(best), "", "", ""]
        found.append(mean)
    return found


def markdown(runs: Sequence[Run]) -> str:
    """The table as Markdown."""
    head = list(map(for_markdown, headings(runs)))
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(map(for_markdown, row))} |" for row in rows(runs)]
    return "\n".join(lines) + "\n"


def _several_seeds(runs: Sequence[Run]) -> bool:
    return len({run.config.seed for run in runs}) > 1


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _interval(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, width = mean_and_width(values)
    return f"{mean:.4f} ± {width:.4f}" if width == width else f"{mean:.4f}"
