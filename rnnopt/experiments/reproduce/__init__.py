"""Published tables and figures by name, and the code that reproduces them."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rnnopt.config.errors import UserError, unknown_name, writing
from rnnopt.experiments.engine import Engine
from rnnopt.experiments.reproduce.admm import convergence
from rnnopt.experiments.reproduce.admm import figures as admm_figures
from rnnopt.experiments.reproduce.admm import tables as admm_tables
from rnnopt.experiments.reproduce.asnaq import table_1 as asnaq_table_1
from rnnopt.experiments.reproduce.asnaq.beyond import GATED, PARTS
from rnnopt.experiments.reproduce.asnaq.figures import FIGURE_1 as ASNAQ_FIGURE_1
from rnnopt.experiments.reproduce.asnaq.figures import FIGURE_2 as ASNAQ_FIGURE_2
from rnnopt.experiments.reproduce.asnaq.figures import FIGURE_3 as ASNAQ_FIGURE_3
from rnnopt.experiments.reproduce.engine import Tell, part_of, run_study
from rnnopt.experiments.reproduce.frank_wolfe import a5_angle, grid, table_1
from rnnopt.experiments.reproduce.frank_wolfe.figure_3 import FIGURE_3
from rnnopt.experiments.reproduce.frank_wolfe.figure_4 import FIGURE_4
from rnnopt.experiments.reproduce.frank_wolfe.table_2 import FIGURE_5, TABLE_2
from rnnopt.experiments.reproduce.frank_wolfe.table_3 import FIGURE_6, TABLE_3
from rnnopt.experiments.reproduce.results import HEADINGS as HEADINGS
from rnnopt.experiments.reproduce.results import NARROW as NARROW
from rnnopt.experiments.reproduce.results import Table, write_results
from rnnopt.experiments.reproduce.study import FORMS, Study


@dataclass(frozen=True)
class Result:
    """A table or figure that does not compare trained rows.

    Args:
        name, title: as in a Study.
        run: (form, folder, tell, stop), with a study (form, folder, engine, tell, stop) → tables
            and failures; writes results.csv, results.md and, if there is one, figure.png.
        study: study whose runs it uses.
    """

    name: str
    title: str
    run: Callable[..., tuple[list[Table], list[str]]]
    study: Study | None = None


ALL: tuple[Study | Result, ...] = (
    FIGURE_3,
    FIGURE_4,
    FIGURE_5,
    FIGURE_6,
    Result("frank-wolfe/table-1", "sizes of the data sets", table_1.run),
    TABLE_2,
    TABLE_3,
    Result(a5_angle.NAME, a5_angle.TITLE, a5_angle.run),
    Result(grid.GRID.name, grid.GRID.title, grid.run, grid.GRID),
    ASNAQ_FIGURE_1,
    ASNAQ_FIGURE_2,
    ASNAQ_FIGURE_3,
    Result(asnaq_table_1.NAME, asnaq_table_1.TITLE, asnaq_table_1.run),
    GATED,
    PARTS,
    admm_figures.FIGURE_2,
    admm_figures.FIGURE_3,
    admm_figures.FIGURE_4,
    admm_figures.FIGURE_5,
    admm_figures.FIGURE_6,
    admm_figures.GATED,
    Result(convergence.NAME, convergence.TITLE, convergence.run),
    Result("admm/table-2", admm_tables.NAMES["admm/table-2"], admm_tables.TABLE_2),
    Result("admm/table-3", admm_tables.NAMES["admm/table-3"], admm_tables.TABLE_3),
)
BY_NAME = {item.name: item for item in ALL}


def reproduce(
    name: str,
    form: str,
    out: Path | None,
    engine: Engine,
    tell: Tell,
    stop: threading.Event,
    only: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> tuple[Path, list[Table], list[str]]:
    """Executes the missing runs of a table or figure and writes it.

    Args:
        name: such as "frank-wolfe/table-3".
        form: "cpu", "full" or "quick".
        out: its folder; None means runs/reproduce/NAME-FORM. Figures of the same runs share this
            folder, each with its own subfolder for the results.
        engine: executes the runs.
        tell: called with the stage and its jobs a few times per second.
        stop: set it to interrupt.
        only, seeds: rows and data sets, and seeds, to train and to write, of a study; none means
            all.

    Returns:
        The folder with the results, the tables, one sentence for each run that failed.
    """
    if name not in BY_NAME:
        raise unknown_name("table or figure", name, BY_NAME)
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    item = BY_NAME[name]
    shared = item.runs if isinstance(item, Study) and item.runs else name
    out = out or Path("runs/reproduce") / f"{shared}-{form}"
    study = item.study if isinstance(item, Result) else item
    if study is None and engine.address is not None:
        raise UserError(f"{name} is made by one process: leave out --cluster.")
    if isinstance(item, Result):
        if only or seeds:
            option = "--only" if only else "--seeds"
            raise UserError(f"{name} is made in one piece: leave out {option}.")
        given = (tell, stop) if study is None else (engine, tell, stop)
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            return out, *item.run(form, out, *given)
    chosen = part_of(item, item.forms[form], only, seeds)
    with writing(out):
        results = out if shared == name else out / name.split("/")[-1]
        results.mkdir(parents=True, exist_ok=True)
        failures = run_study(item, chosen, out, engine, tell, stop)
        return results, write_results(item, chosen, out, results), failures
