"""Claims: they assign runs to workers, and are trials of one Optuna study.

To claim a run, a worker adds a trial that names it. The database numbers the trials, so if two
workers claim the same run, the lower number wins and the other claim is released. A claim ends as
COMPLETE, with the texts of the run, or as FAIL: then the run is free again. No list of runs can be
lost or duplicated: every worker knows all runs.

A worker changes its claims ("beat") every `heartbeat` seconds. A worker that has watched a claim
for twice that time without a change ends the claim. Each worker measures the time on its own clock,
and only while the database answers.
"""

import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rnnopt.experiments.database import check_same, close, open_storage, quiet

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

DEATHS = 4  # a run fails after that many of its workers have died


class Claims:
    """The claims of this worker and of all others.

    Args:
        address: address of the database, with its driver.
        name: name of the study.
        settings: settings that must be the same for all workers, by part and name.
        heartbeat: seconds between heartbeats.

    Raises:
        UserError: the database cannot be reached, or the study was begun with other settings.
    """

    def __init__(self, address: str, name: str, settings: dict[str, Any], heartbeat: float):
        self.heartbeat = heartbeat
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        with quiet():
            from optuna.storages import get_storage

            self._database = open_storage(address)
            self._storage = get_storage(self._database)  # reads finished trials only once
        self._study = self._find(name, settings)
        self.mine: dict[str, int] = {}  # run → id of the trial
        self._watched: dict[int, tuple[int, float]] = {}  # number → last beat, time of reading it
        self._beat, self._read = 0, time.monotonic()
        self._begun = len(self._all())

    def _find(self, name: str, settings: dict[str, Any]) -> int:
        from optuna.exceptions import DuplicatedStudyError
        from optuna.study import StudyDirection

        try:
            study = self._storage.create_new_study([StudyDirection.MINIMIZE], name)
        except DuplicatedStudyError:
            study = self._storage.get_study_id_from_name(name)
        saved = self._storage.get_study_user_attrs(study).get("settings")
        if saved is None:
            self._storage.set_study_user_attr(study, "settings", settings)
        else:
            check_same(saved, settings, f"{name!r} in the storage")
        return study

    def close(self) -> None:
        """Closes the connections to the database."""
        close(self._database)

    # -- what others do ----------------------------------------------------------------------------

    def _all(self) -> "list[FrozenTrial]":
        trials = self._storage.get_all_trials(self._study, deepcopy=False)
        self._by_run: dict[str, list[FrozenTrial]] = {}
        for trial in trials:
            self._by_run.setdefault(trial.user_attrs["run"], []).append(trial)
        return trials

    def read(self) -> None:
        """Reads all claims; ends those without a heartbeat."""
        trials = self._all()
        now = time.monotonic()
        if now - self._read > self.heartbeat:  # no claim was watched meanwhile
            self._watched.clear()
        self._read = now
        for trial in trials:
            if trial.state.name != "RUNNING" or self._id(trial) in self.mine.values():
                continue
            beat = trial.user_attrs["beat"]
            before, since = self._watched.get(trial.number, (None, now))
            if beat != before:
                self._watched[trial.number] = beat, now
            elif now - since > 2 * trial.user_attrs["heartbeat"]:
                self._end(self._id(trial), "lost")

    def result(self, run: str) -> "FrozenTrial | None":
        """The claim with the result of a run, if it is done."""
        return next((t for t in self._of(run) if t.state.name == "COMPLETE"), None)

    def is_free(self, run: str) -> bool:
        """Whether no worker executes the run or has finished it."""
        return all(trial.state.name == "FAIL" for trial in self._of(run))

    def failure(self, run: str) -> str:
        """Why this command must not try the run again; "" without such a reason.

        Runs that failed before this command began may be tried again.
        """
        ended = [t for t in self._of(run) if t.number >= self._begun and t.state.name == "FAIL"]
        for trial in ended:
            if "error" in trial.user_attrs:
                return str(trial.user_attrs["error"])
        deaths = sum(trial.user_attrs.get("end") == "lost" for trial in ended)
        return f"its worker died {deaths} times (out of memory?)" if deaths >= DEATHS else ""

    def _of(self, run: str) -> "list[FrozenTrial]":
        return self._by_run.get(run, [])

    # -- what this worker does ---------------------------------------------------------------------

    def take(self, run: str) -> bool:
        """Claims a run; returns False if another worker was first."""
        from optuna.trial import TrialState, create_trial

        facts = {"run": run, "worker": self.worker, "beat": 0, "heartbeat": self.heartbeat}
        trial = create_trial(state=TrialState.RUNNING, user_attrs=facts)
        claim = self._storage.create_new_trial(self._study, trial)
        self._all()
        live = (self._id(trial) for trial in self._of(run) if trial.state.name != "FAIL")
        if next(live, None) == claim:
            self.mine[run] = claim
            return True
        self._end(claim, "late")
        return False

    def beat(self) -> None:
        """Sends a heartbeat."""
        self._beat += 1
        for run, claim in list(self.mine.items()):
            if not self._note(claim, beat=self._beat):
                del self.mine[run]  # another worker has ended the claim

    def finish(self, run: str, texts: dict[str, str]) -> None:
        """Stores the result of a run."""
        from optuna.trial import TrialState

        claim = self.mine.get(run)
        if claim is not None and self._note(claim, texts=texts):
            self._set(claim, TrialState.COMPLETE)
        self.mine.pop(run, None)

    def release(self, run: str) -> None:
        """Releases a run."""
        self._let_go(run, "released")

    def died(self, run: str) -> None:
        """Releases a run whose process died."""
        self._let_go(run, "lost")

    def fail(self, run: str, error: str) -> None:
        """Reports to all workers that a run failed."""
        self._let_go(run, "failed", error=error)

    def _let_go(self, run: str, end: str, **facts: str) -> None:
        claim = self.mine.get(run)
        if claim is not None:
            self._end(claim, end, **facts)
            del self.mine[run]

    def _end(self, claim: int, end: str, **facts: str) -> None:
        from optuna.trial import TrialState

        if self._note(claim, end=end, **facts):
            self._set(claim, TrialState.FAIL)

    def _set(self, claim: int, state: Any) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(claim, state)

    def _note(self, claim: int, **facts: Any) -> bool:
        """Writes attributes of a claim; returns False if it has ended."""
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            for name, value in facts.items():
                self._storage.set_trial_user_attr(claim, name, value)
        except UpdateFinishedTrialError:
            return False
        return True

    def _id(self, trial: "FrozenTrial") -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)
