"""The mirror of a folder of runs: what it brings home, what it keeps, what is refused."""

import itertools

import fsspec
import pytest

from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig
from rnnopt.experiments.mirror import Mirror
from rnnopt.experiments.mirrored import STATE, mirrored
from rnnopt.runs.folder import RunFolder
from rnnopt.runs.runner import run

CONFIG = RunConfig("counting:length=3", hidden=3, budget="10gradients", optimizer="adam")


@pytest.fixture
def url():
    """A folder in memory, empty before and after."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield "memory://there"
    memory.store.clear()


def trained(path, steps=99):
    """A run of so many steps."""
    count = itertools.count()
    run(CONFIG, path, (path / "config.json").exists(), stop_requested=lambda: next(count) >= steps)
    return path


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock" and not path.name.endswith(".part")
    }


def test_a_folder_comes_home_as_it_was_put(url, tmp_path):
    out, again = tmp_path / "here", tmp_path / "again"
    with mirrored(out, url, resume=False):
        trained(out / "adam" / "seed-0")
        (out / "comparison.json").write_text("{}")
        (out / ".report.md.part").write_text("half")
    with mirrored(again, url, resume=True):
        assert contents(again) == contents(out) | {STATE: contents(again)[STATE]}
    assert "adam/seed-0/checkpoint.pt" in contents(again)
    assert not [name for name in Mirror(url).sizes() if name.endswith((".part", "lock"))]


def test_the_run_that_went_further_wins(url, tmp_path):
    here, there = trained(tmp_path / "a" / "run", 4), trained(tmp_path / "b" / "run", 7)
    Mirror(url).put_runs(tmp_path / "b")
    before = contents(there)
    Mirror(url).put_runs(tmp_path / "a")  # is behind: nothing of it goes there
    Mirror(url).fetch(tmp_path / "c")
    assert contents(tmp_path / "c" / "run") == before
    Mirror(url).fetch(tmp_path / "a")
    assert contents(here) == before
    trained(here)  # ends, and stays when the mirror is behind
    ended = contents(here)
    Mirror(url).fetch(tmp_path / "a")
    assert contents(here) == ended
    assert RunFolder(here).is_over()


def test_a_resumed_run_of_the_mirror_ends_as_an_unbroken_one(url, tmp_path):
    mirror = Mirror(f"{url}/run")
    mirror.put_run(trained(tmp_path / "lost", 5), now=True)
    mirror.fetch(tmp_path / "next")
    trained(tmp_path / "next")
    whole = RunFolder(trained(tmp_path / "whole")).read_result()
    assert RunFolder(tmp_path / "next").read_result()["test_loss"] == whole["test_loss"]


def test_a_run_half_put_is_no_run(url, tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe_file("/there/run/metrics.jsonl", b"{}\n")
    Mirror(f"{url}/run").fetch(tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_only_what_changed_is_put_again_and_not_too_often(url, tmp_path, monkeypatch):
    put = []
    path = trained(tmp_path / "run", 4)
    mirror = Mirror(url)
    monkeypatch.setattr(type(mirror.files), "mv", lambda self, part, name: put.append(name))
    mirror.put_run(path)
    assert put
    put.clear()
    trained(path)
    mirror.put_run(path)
    assert put == []
    mirror.put_run(path, now=True)
    assert f"{mirror._root}/environment.json" not in put
    assert put[-1].endswith("result.json")


def test_a_mirror_with_files_is_not_begun_anew(url, tmp_path):
    with mirrored(tmp_path / "out", url, resume=False):
        trained(tmp_path / "out" / "run")
    with (
        pytest.raises(UserError, match="already holds files: continue with --resume"),
        mirrored(tmp_path / "other", url, resume=False),
    ):
        pass
    with mirrored(tmp_path / "other", url, resume=True) as url_of:
        assert url_of(tmp_path / "other" / "run") == f"{url}/run"
        assert contents(tmp_path / "other") == contents(tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nope://x", "--mirror nope://x cannot be used: .*nope"),
        ("folder", "must be a URL such as s3://bucket/folder, got 'folder'"),
        ("s3://bucket/x", "--mirror s3://bucket/x cannot be used: .*s3fs"),
        ("file:///proc/none", "--mirror file:///proc/none does not answer"),
    ],
)
def test_bad_addresses_are_a_sentence(address, message, tmp_path):
    with pytest.raises(UserError, match=message):
        Mirror(address).write("a", b"a")


@pytest.mark.parametrize("verb", ["compare", "reproduce"])
def test_a_mirror_needs_a_folder(verb, command):
    words = ["frank-wolfe/table-3"] if verb == "reproduce" else []
    code, _, error = command(verb, *words, "--mirror", "memory://x")
    assert code == 2
    assert "--mirror needs --out" in error
