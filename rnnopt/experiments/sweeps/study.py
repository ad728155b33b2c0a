"""The study of a sweep: trials, their values and their workers.

It is stored in a database: SQLite in the sweep's folder, or any database of Optuna, which several
commands may share. A trial whose command died (no heartbeat for two intervals) is requeued.
"""

import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnnopt.config.errors import UserError, writing
from rnnopt.config.metric_names import lower_is_better
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.database import check_same, close, open_storage, quiet, with_driver
from rnnopt.experiments.sweeps.spaces import Space
from rnnopt.runs.files import read_json, write_json

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

RETRIES = 3  # retries of a trial whose command died, so that no trial kills commands forever


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Args:
        config: common settings of the trials.
        space: search space.
        trials: number of trials.
        out: folder of the sweep.
        storage: address of the database, for SQLAlchemy.
        metric: name of the validation metric.
        prune: whether to stop trials that are worse than the median of the others at a step.
        heartbeat: seconds between a command's heartbeats.
        files: sha256 of the user's own data by role, at the beginning of the sweep.
    """

    config: RunConfig
    space: Space
    trials: int
    out: Path
    storage: str
    metric: str
    prune: bool = True
    heartbeat: int = 30
    files: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The study's name in the database: the name of the folder."""
        return self.out.resolve().name

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same when a sweep is resumed."""
        space = {name: str(values) for name, values in self.space.items()}
        files = {f"sha256 of {role}": digest for role, digest in self.files.items()}
        return {"config": self.config.to_dict(), "space": space, "files": files}


def address(storage: str | None, out: Path) -> str:
    """The database's address with its driver; by default SQLite in `out`."""
    if storage is None:
        return f"sqlite:///{out.resolve() / 'sweep.db'}"
    return with_driver(storage)


def begin(sweep: Sweep) -> "Study":
    """Creates the sweep's folder and study, or opens existing ones.

    Raises:
        UserError: they were begun with other settings, or cannot be written or reached.
    """
    file = sweep.out / "sweep.json"
    place = _without_password(sweep)
    if file.exists():
        saved = read_json(file)
        if saved.get("storage") != place:
            raise UserError(
                f"{sweep.out} was begun with the storage {saved.get('storage')}, got {place}:"
                " choose another --out."
            )
        check_same(saved, sweep.settings(), str(sweep.out))
    with writing(f"the sweep's folder {sweep.out}"):
        sweep.out.mkdir(parents=True, exist_ok=True)
    storage = open_sweep(sweep)
    direction = "minimize" if lower_is_better(sweep.metric) else "maximize"
    with quiet() as optuna:
        name, own = sweep.name, sweep.storage == address(None, sweep.out)
        found = optuna.get_all_study_names(storage) if own else []
        if len(found) == 1:  # the folder may have had another name, or come from a mirror
            name = found[0]
        study = optuna.create_study(
            storage=storage, study_name=name, direction=direction, load_if_exists=True
        )
    weakref.finalize(study, close, storage)
    if "settings" in study.user_attrs:
        saved = study.user_attrs["settings"]
        check_same(saved, sweep.settings(), f"study {sweep.name!r} in the storage")
    else:
        study.set_user_attr("settings", sweep.settings())
    write_json(file, sweep.settings() | {"storage": place})
    return study


def _without_password(sweep: Sweep) -> str:
    """The storage as written to sweep.json, without a password."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if sweep.storage == address(None, sweep.out):
        return "sweep.db"
    try:
        return make_url(sweep.storage).render_as_string(hide_password=True)
    except (ArgumentError, ValueError) as error:
        raise UserError(f"the storage cannot be used: {error}.") from error


def open_sweep(sweep: Sweep) -> "RDBStorage":
    """Opens the sweep's database; raises UserError if it cannot be reached."""
    with quiet() as optuna:
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(RETRIES)
    return open_storage(
        sweep.storage, heartbeat_interval=sweep.heartbeat, heartbeat_stale_trial_callback=retry
    )


def counted(trials: "list[FrozenTrial]") -> int:
    """Number of trials that count towards `Sweep.trials`.

    Trials whose command died, that were interrupted or came too late do not count. A trial that
    raised an error counts: otherwise a space that always fails would never end.
    """
    return sum(trial.state.name != "FAIL" or "error" in trial.user_attrs for trial in trials)


def put_back(study: "Study", trial: "FrozenTrial") -> None:
    """Requeues a trial that ended early, with the same values and folder."""
    with quiet() as optuna:
        optuna.storages.RetryHeartbeatStaleTrialCallback()(study, trial)


def put_back_running(study: "Study") -> None:
    """Requeues every running trial; only for a sweep on which no command works."""
    with quiet() as optuna:
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            put_back(study, trial)
