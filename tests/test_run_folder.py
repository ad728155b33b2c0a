"""What a run folder promises: the run can be repeated and continued from it, come what may.

The loop itself is promised in test_training.py, the verbs that use these folders in
test_command_line.py.
"""

import io
import json
import os
import pickle
from dataclasses import replace

import pytest
import torch
from same_runs import assert_same_run, result_of

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.runs import folder as run_folder
from rnnopt.runs.checksums import pack, unpack
from rnnopt.runs.environment import load_average, processor_name
from rnnopt.runs.folder import RunFolder, find_runs, write_atomically
from rnnopt.runs.runner import run
from rnnopt.tasks import Task, build_task
from rnnopt.training import build as building
from rnnopt.training.registry import OPTIMIZERS

CONFIG = RunConfig(
    "digits-rows", hidden=4, budget="12gradients", evaluate_every=3, optimizer="adam", seed=5
)
FILES = {
    "config.json", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint-previous.pt",
    "best.pt", "result.json", "lock",
}  # fmt: skip


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run."""
    run(CONFIG, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def interrupted(tmp_path):
    """The folder of a run that was interrupted after 7 of 12 gradients."""
    count = iter(range(100))
    result = run(CONFIG, tmp_path / "run", stop_requested=lambda: next(count) == 7)
    assert result["gradient_evaluations"] == 7
    return tmp_path / "run"


def names(folder):
    """Names of all files in a folder, hidden ones too."""
    return {path.name for path in folder.iterdir()}


# -- writing --------------------------------------------------------------------------------------


def test_a_written_file_has_the_content_and_nothing_lies_beside_it(tmp_path):
    write_atomically(tmp_path / "file", b"old")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path, monkeypatch, broken
):
    def full(*_):
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "file", b"old")
    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_what_a_killed_process_left_behind_is_gone_after_the_next_write(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as death:
        for name in ("fsync", "unlink", "remove"):  # the dead tidy up nothing
            death.setattr(os, name, die)
        with pytest.raises(Killed):
            write_atomically(tmp_path / "file", b"torn")
    write_atomically(tmp_path / "file", b"whole")
    assert names(tmp_path) == {"file"}
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_finished_run_has_its_files_and_no_temporary_one(finished):
    assert names(finished) == FILES


def test_a_run_that_fails_early_leaves_no_folder(tmp_path):
    with pytest.raises(UserError):
        run(replace(CONFIG, optimizer="adm"), tmp_path / "run")
    with pytest.raises(UserError):
        run(replace(CONFIG, task="digits"), tmp_path / "run")
    assert names(tmp_path) == set()


# -- creating and opening -------------------------------------------------------------------------


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(finished):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    with pytest.raises(UserError, match=f"{finished} already holds a run.*--resume.*--out"):
        RunFolder.create(finished, CONFIG)
    with pytest.raises(UserError, match="already holds a run"):
        run(CONFIG, finished)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        RunFolder.create(path, CONFIG)
        assert RunFolder.open(path).read_config() == CONFIG


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_way_is_an_error_that_names_the_folder(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / below
    with pytest.raises(UserError, match=f"cannot write the run folder {path}"):
        RunFolder.create(path, CONFIG)


def test_a_name_that_is_too_long_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"cannot write the run folder .*too long"):
        RunFolder.create(tmp_path / ("long" * 100), CONFIG)


def test_a_folder_without_a_config_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=f"{path} must be a run folder.*config.json"):
            RunFolder.open(path)


def test_runs_are_found_at_any_depth_in_order(tmp_path):
    paths = [tmp_path / "b", tmp_path / "a" / "seed-1", tmp_path / "a" / "seed-0"]
    for path in paths:
        RunFolder.create(path, CONFIG)
    assert [folder.path for folder in find_runs([tmp_path])] == sorted(paths)
    twice = find_runs([tmp_path / "a", tmp_path / "a" / "seed-0"])
    assert [folder.path for folder in twice] == sorted(paths[1:])


def test_no_run_is_an_error_that_names_the_place(tmp_path):
    with pytest.raises(UserError, match=f"no run was found in {tmp_path}"):
        find_runs([tmp_path])
    with pytest.raises(UserError, match=f"{tmp_path / 'nowhere'} does not exist"):
        find_runs([tmp_path / "nowhere"])


def test_the_environment_tells_versions_and_machine(finished):
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == 1
    assert {"rnnopt", "python", "system", "processor", "gpu", "load"} <= environment.keys()


def test_a_system_without_a_load_average_has_none(monkeypatch):
    monkeypatch.delattr("os.getloadavg", raising=False)
    assert load_average() is None


# -- damage ---------------------------------------------------------------------------------------

damages = pytest.mark.parametrize(
    "content",
    [b"", b'{"seed": 1', b"\xff\xfe\x00", b"[1, 2]", b"null", b"seed = 1"],
    ids=["empty", "torn", "binary", "list", "null", "not JSON"],
)


@damages
@pytest.mark.parametrize(
    ("name", "read"), [("config.json", "read_config"), ("result.json", "read_result")]
)
def test_a_damaged_json_file_is_an_error_that_names_it(finished, name, read, content):
    (finished / name).write_bytes(content)
    with pytest.raises(UserError, match=str(finished / name)):
        getattr(RunFolder.open(finished), read)()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden", "many"),
        ("layers", 1.5),
        ("threads", None),
        ("lr", [1]),
        ("budget", 5),
        ("task", 5),
        ("optimizer", None),
        ("model", []),
        ("readout", "first"),
        ("seed", "0"),
        ("initialization", "zeros"),
        ("schedule", 3),
        ("device", 0),
        ("batch_norm", "no"),
        ("hiden", 3),
    ],
)
def test_a_config_with_a_value_of_the_wrong_kind_is_an_error_that_names_the_file(
    interrupted, name, value
):
    config = json.loads((interrupted / "config.json").read_text())
    (interrupted / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(UserError, match=str(interrupted / "config.json")):
        RunFolder.open(interrupted).read_config()


def ruin(folder, content):
    """Puts `content` in place of both checkpoints."""
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04."])
def test_two_damaged_checkpoints_are_an_error_that_names_them(interrupted, content):
    ruin(interrupted, content)
    with pytest.raises(UserError) as raised:
        run(CONFIG, interrupted, resume=True)
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        assert f"{interrupted / name} is not a readable checkpoint" in str(raised.value)
    assert "begin again with another --out" in str(raised.value)


def test_a_checkpoint_of_another_run_is_an_error_that_names_it(interrupted, tmp_path):
    other = tmp_path / "other"
    run(replace(CONFIG, hidden=5), other)
    (interrupted / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    with pytest.raises(UserError, match=str(interrupted / "checkpoint.pt")):
        run(CONFIG, interrupted, resume=True)


@pytest.mark.parametrize("state", [{}, [], {"model": {}}, torch.zeros(3)], ids=str)
def test_a_checkpoint_that_holds_something_else_is_an_error_that_names_it(interrupted, state):
    (interrupted / "checkpoint.pt").write_bytes(pack(state))
    with pytest.raises(UserError, match=str(interrupted / "checkpoint.pt")):
        run(CONFIG, interrupted, resume=True)


def test_a_checkpoint_is_never_executed(interrupted, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    buffer = io.BytesIO()
    torch.save({"model": Evil()}, buffer)
    for content in (pickle.dumps(Evil()), buffer.getvalue(), pack({"model": Evil()})):
        ruin(interrupted, content)
        with pytest.raises(UserError, match=str(interrupted / "checkpoint.pt")):
            run(CONFIG, interrupted, resume=True)
    assert not (tmp_path / "executed").exists()


def test_a_torn_last_line_of_metrics_is_left_out(interrupted):
    folder = RunFolder.open(interrupted)
    before = folder.read_records()
    path = interrupted / "metrics.jsonl"
    whole = path.read_text()
    for cut in range(2, len(whole.splitlines()[-1]) + 1):
        path.write_text(whole[:-cut])
        assert len(folder.read_records()) == len(before) - 1


def test_a_run_that_is_over_must_have_all_its_lines(finished):
    path = finished / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=f"{path}, cut short, must have 5 lines, got 4"):
        RunFolder.open(finished).read_records()


def test_a_torn_line_in_the_middle_is_an_error_that_names_file_and_line(finished):
    path = finished / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:20]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"{path}, line 2 must be JSON, got"):
        RunFolder.open(finished).read_records()


@pytest.mark.parametrize("content", [b"\xff\xfe\n{}\n", b"3\n{}\n"])
def test_metrics_that_are_no_records_are_an_error_that_names_the_file(finished, content):
    (finished / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=str(finished / "metrics.jsonl")):
        RunFolder.open(finished).read_records()


def test_missing_metrics_are_no_records(tmp_path):
    assert RunFolder.create(tmp_path / "run", CONFIG).read_records() == []


# -- repeating and going on -----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam:lr=0.01,clip=1", "frank-wolfe:inner_steps=2"])
def test_a_run_can_be_repeated_from_its_config_alone(tmp_path, optimizer):
    config = replace(CONFIG, optimizer=optimizer, batch_norm=True, schedule="linear")
    run(config, tmp_path / "first")
    torch.manual_seed(77)
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "config.json").write_bytes((tmp_path / "first" / "config.json").read_bytes())
    run(RunFolder.open(copy).read_config(), tmp_path / "second")
    assert_same_run(tmp_path / "first", tmp_path / "second")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizers_checkpoint_is_read_without_executing_it(tmp_path, name):
    config = replace(CONFIG, optimizer=name, budget="3gradients")
    run(config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["closure"]["calls"] >= 1
    weights = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    assert weights.keys() == state["model"].keys()


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(interrupted, tmp_path):
    assert RunFolder.open(interrupted).read_result()["status"] == "interrupted"
    assert "best.pt" not in names(interrupted)
    result = run(CONFIG, interrupted, resume=True)
    assert result["status"] == "out of budget"
    run(CONFIG, tmp_path / "whole")
    assert_same_run(interrupted, tmp_path / "whole")
    assert names(interrupted) == FILES


@pytest.mark.parametrize(("losses", "best"), [([2.0, 3.0], 3), ([0.8, 2.0], 9)])
def test_a_run_of_a_version_that_kept_no_loss_goes_on_with_that_of_its_history(
    tmp_path, monkeypatch, losses, best
):
    # Looks after 0, 3, 6 and, once it goes on, 9 and 12 gradients; then the test, of the network
    # and of a constant answer.
    given = iter([3.0, 1.0, 1.5, *losses, 9.0, 9.0])
    monkeypatch.setattr(Task, "evaluate", lambda *_: (next(given), 0.5))
    count, path = iter(range(100)), tmp_path / "run"
    run(CONFIG, path, stop_requested=lambda: next(count) == 7)
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        state = unpack((path / name).read_bytes(), True)
        del state["best"]["validation_loss"]
        (path / name).write_bytes(pack(state))
    assert run(CONFIG, path, resume=True)["best"]["gradient_evaluations"] == best


def test_an_interrupted_run_has_no_test_result(interrupted):
    assert "test_metric" not in RunFolder.open(interrupted).read_result()


def test_a_crash_at_any_file_operation_can_be_continued(tmp_path, monkeypatch):
    # The process dies just before its n-th write, for every n until a run gets through; what it
    # wrote to metrics.jsonl after the last checkpoint must not appear twice.
    run(CONFIG, tmp_path / "whole")
    append, write = RunFolder.append_record, run_folder.write_atomically

    class Died(BaseException):
        pass

    for allowed in range(100):
        left = iter(range(allowed))

        def dying(operation, left=left):
            def wrapped(*args):
                if next(left, None) is None:
                    raise Died
                return operation(*args)

            return wrapped

        path = tmp_path / f"run-{allowed}"
        monkeypatch.setattr(RunFolder, "append_record", dying(append))
        monkeypatch.setattr(run_folder, "write_atomically", dying(write))
        try:
            run(CONFIG, path)
            died = False
        except Died:
            died = True
        monkeypatch.setattr(RunFolder, "append_record", append)
        monkeypatch.setattr(run_folder, "write_atomically", write)
        if not died:
            break
        run(CONFIG, path, resume=(path / "config.json").exists())
        assert_same_run(path, tmp_path / "whole")
    # environment, config, "running", five records with a checkpoint each, weights, result
    assert allowed == 3 + 2 * 5 + 2


def test_a_crash_after_the_target_was_met_does_not_go_on_training(tmp_path, monkeypatch):
    # The target is the best metric that the run meets before its end.
    config = replace(CONFIG, optimizer="adam:lr=0.05", budget="30gradients")
    run(config, tmp_path / "free")
    metrics = [r["validation_metric"] for r in RunFolder.open(tmp_path / "free").read_records()]
    target = max(metrics[1:-1])
    assert target > metrics[0]
    monkeypatch.setattr(
        building, "build_task", lambda text: replace(build_task(text), target=target)
    )
    config = replace(config, stop_at_target=True)
    run(config, tmp_path / "whole")
    run(config, tmp_path / "run")
    assert result_of(tmp_path / "whole")["gradient_evaluations"] == 3 * metrics.index(target)
    # The process dies after its last checkpoint and before the result.
    RunFolder.open(tmp_path / "run").write_result({"status": "running"})
    (tmp_path / "run" / "best.pt").unlink()
    run(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_torn_line_of_a_crash_is_gone_after_going_on(interrupted, tmp_path):
    with (interrupted / "metrics.jsonl").open("a") as file:
        file.write('{"gradient_evaluations": 9, "sec')
    run(CONFIG, interrupted, resume=True)
    run(CONFIG, tmp_path / "whole")
    assert_same_run(interrupted, tmp_path / "whole")


def test_a_run_without_a_checkpoint_begins_anew(interrupted, tmp_path):
    (interrupted / "checkpoint.pt").unlink()
    run(CONFIG, interrupted, resume=True)
    run(CONFIG, tmp_path / "whole")
    assert_same_run(interrupted, tmp_path / "whole")


def test_going_on_with_a_finished_run_changes_nothing(finished):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    result = run(CONFIG, finished, resume=True)
    assert result == RunFolder.open(finished).read_result()
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


@pytest.mark.parametrize(("name", "value"), [("lr", 0.5), ("seed", 6), ("task", "counting")])
def test_going_on_with_other_settings_is_refused(interrupted, name, value):
    with pytest.raises(UserError, match=f"begun with {name}=.*cannot resume with {name}={value}"):
        run(replace(CONFIG, **{name: value}), interrupted, resume=True)


def test_going_on_needs_only_the_folder(interrupted):
    assert run(RunConfig(), interrupted, resume=True)["gradient_evaluations"] == 12


def test_an_error_in_the_middle_leaves_a_run_that_can_go_on(tmp_path):
    def fail(progress):
        if progress.gradient_evaluations == 8:
            raise RuntimeError("the listener broke")

    with pytest.raises(RuntimeError, match="the listener broke"):
        run(CONFIG, tmp_path / "run", listener=fail)
    assert RunFolder.open(tmp_path / "run").read_result()["status"] == "failed"
    assert "the listener broke" in (tmp_path / "run" / "error.txt").read_text()
    run(CONFIG, tmp_path / "run", resume=True)
    run(CONFIG, tmp_path / "whole")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_begun_is_running(tmp_path):
    assert RunFolder.create(tmp_path / "run", CONFIG).read_result() == {"status": "running"}


def test_the_processor_has_a_name():
    assert processor_name()


def test_every_option_of_a_config_is_read_back():
    # Options that may be unset are words, numbers or None.
    given = dict(initialization="orthogonal", layers=2, dropout=0.5, lr=1, clip_value=2.0, tbptt=4)
    config = replace(CONFIG, **given)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert RunConfig.from_dict(CONFIG.to_dict()) == CONFIG
    for name, wrong in (("initialization", "x"), ("layers", 2.5), ("lr", "1"), ("tbptt", True)):
        with pytest.raises(UserError, match=name):
            RunConfig.from_dict({**CONFIG.to_dict(), name: wrong})
