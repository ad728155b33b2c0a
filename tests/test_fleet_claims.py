"""What claims promise: each run has one worker at a time, and a worker that is gone holds none.

Workers as processes, and what they come to, are promised in test_fleets.py.
"""

import threading
import time

import pytest
from messages import naming

pytest.importorskip("optuna")

import quick_sqlite  # noqa: F401

from rnnopt.config.errors import UserError
from rnnopt.experiments.leases import DEATHS, Claims

SETTINGS = {"shared": {"hidden": 3}, "comparison": {"seeds": [0, 1]}}
SHORT = 0.2  # seconds between signs of life


@pytest.fixture
def join(tmp_path):
    """Joins the fleet as a worker more."""
    joined = []

    def worker(heartbeat=60.0, settings=SETTINGS):
        joined.append(Claims(f"sqlite:///{tmp_path}/f.db", "compare c", settings, heartbeat))
        return joined[-1]

    yield worker
    for claims in joined:
        claims.close()


def test_a_run_is_taken_once(join):
    one, two = join(), join()
    assert one.take("a")
    two.read()
    assert not two.is_free("a")
    assert not two.take("a")  # as if it had not looked
    assert two.take("b")
    one.read()
    assert not one.is_free("b")
    assert one.mine.keys() == {"a"}
    assert two.mine.keys() == {"b"}


def test_of_many_that_want_the_same_runs_at_the_same_moment_each_has_others(join):
    workers = [join() for _ in range(4)]
    runs = [str(i) for i in range(12)]
    together = threading.Barrier(len(workers))

    def take_all(claims):
        together.wait()
        for run in runs:
            claims.take(run)

    threads = [threading.Thread(target=take_all, args=(claims,)) for claims in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = [run for claims in workers for run in claims.mine]
    assert sorted(taken, key=int) == runs


def test_what_is_done_is_known_to_all_and_never_free(join):
    one, two = join(), join()
    one.take("a")
    one.finish("a", {"result.json": "{}"})
    two.read()
    assert two.result("a").user_attrs["texts"] == {"result.json": "{}"}
    assert not two.is_free("a")
    assert not two.take("a")
    assert two.result("b") is None


def test_a_released_run_is_free_at_once(join):
    one, two = join(), join()
    one.take("a")
    one.release("a")
    two.read()
    assert two.is_free("a")
    assert two.take("a")


def watch(claims, seconds):
    """Reads the claims again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        claims.read()
        time.sleep(SHORT / 10)


def test_a_claim_without_a_sign_of_life_ends_and_what_comes_of_it_counts_no_more(join):
    gone, other = join(SHORT), join(SHORT)
    gone.take("a")
    watch(other, 4 * SHORT)
    other.read()
    assert other.is_free("a")
    assert other.take("a")
    gone.finish("a", {"result.json": "late"})  # it was asleep, not dead
    assert gone.mine == {}
    other.read()
    assert other.result("a") is None
    other.finish("a", {"result.json": "in time"})
    gone.read()
    assert gone.result("a").user_attrs["texts"] == {"result.json": "in time"}


def test_a_claim_with_signs_of_life_stands(join):
    one, other = join(0.3), join(0.3)
    one.take("a")
    for _ in range(10):
        one.beat()
        watch(other, 0.1)
    assert not other.is_free("a")


def test_a_worker_learns_at_its_next_beat_that_it_was_taken_for_dead(join):
    gone, other = join(SHORT), join(SHORT)
    gone.take("a")
    watch(other, 4 * SHORT)
    gone.beat()
    assert gone.mine == {}


def test_while_the_database_was_away_nobody_died(join):
    one, other = join(0.2), join(0.2)
    one.take("a")
    other.read()
    time.sleep(0.6)  # neither could write or read
    other.read()
    assert not other.is_free("a")


def test_a_failure_is_known_to_all_and_tried_again_by_who_joins_later(join):
    one, two = join(), join()
    one.take("a")
    one.fail("a", "no room")
    for claims in (one, two):
        claims.read()
        assert claims.failure("a") == "no room"
    later = join()
    assert later.failure("a") == ""
    assert later.take("a")
    later.finish("a", {})
    one.read()
    assert one.result("a") is not None


def test_a_run_that_kills_its_workers_comes_to_an_end(join):
    one = join()
    for _ in range(DEATHS):
        assert one.failure("a") == ""
        one.take("a")
        one.died("a")
        one.read()
    assert one.failure("a") == "its worker died 4 times (out of memory?)"


def test_other_settings_are_refused(join):
    join()
    join()
    with pytest.raises(UserError, match=naming("'compare c'", "3", "4", "--out", "hidden")):
        join(settings=SETTINGS | {"shared": {"hidden": 4}})
