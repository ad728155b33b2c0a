"""The mirror of a folder of runs: what it brings home, what it keeps, what is refused."""

import itertools
import sqlite3
from contextlib import closing
from dataclasses import replace

import fsspec
import pytest

from rnnopt.cli.commands.compare import again
from rnnopt.config.errors import UserError
from rnnopt.config.run_config import RunConfig, SharedConfig
from rnnopt.experiments.comparison import ComparisonSpec
from rnnopt.experiments.mirror import Mirror, without_secrets
from rnnopt.experiments.mirrored import STATE, Own, mirrored
from rnnopt.experiments.worker import _mirrored
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


def put_there(files):
    for name, content in files.items():
        fsspec.filesystem("memory").pipe_file(f"/there/{name}", content)


def stored():
    """What the mirror holds."""
    store = fsspec.filesystem("memory").store
    return {name.removeprefix("/there/"): file.getvalue() for name, file in store.items()}


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


@pytest.mark.parametrize("kind", ["run/config.json", "report.md"])
def test_a_folder_that_cannot_be_written_is_a_sentence(kind, url, tmp_path):
    put_there({STATE: b"{}", kind: b"{}"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), mirrored(tmp_path / "file", url, True):
        pass


def test_with_several_requests_at_once_all_runs_come_home(url, tmp_path, monkeypatch):
    for i in range(40):
        RunFolder.create(tmp_path / "here" / f"run-{i}", replace(CONFIG, seed=i))
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "async_impl", True)
    Mirror(url).put_runs(tmp_path / "here")
    Mirror(url).fetch(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "here")
    put_there({"run-39/config.json": b"[]"})
    with pytest.raises(UserError, match="run-39 with other settings"):
        Mirror(url).fetch(tmp_path / "again")


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/abs/evil", "a//evil", "a\\evil"])
def test_a_name_that_leaves_the_folder_is_refused_and_nothing_written(name, url, tmp_path):
    put_there({STATE: b"{}", "run/config.json": b"{}"})
    fsspec.filesystem("memory").store[f"/there/{name}"] = fsspec.filesystem("memory").store[
        f"/there/{STATE}"
    ]
    with (
        pytest.raises(UserError, match="no name below a folder"),
        mirrored(tmp_path / "o", url, True),
    ):
        pass
    with pytest.raises(UserError, match="no name below a folder"):
        Mirror(url).fetch(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["m", "m/below", "."])
def test_folder_and_mirror_are_apart(out, tmp_path):
    (tmp_path / "m").mkdir()
    with (
        pytest.raises(UserError, match="must be outside"),
        mirrored(tmp_path / out, f"file://{tmp_path / 'm'}", resume=True),
    ):
        pass
    assert contents(tmp_path) == {}


def test_a_file_and_the_files_of_others_are_no_mirror(url, tmp_path):
    put_there({"thesis.doc": b"mine"})
    for address, message in ((url, "holds other files"), (f"{url}/thesis.doc", "it is a file")):
        with pytest.raises(UserError, match=message), mirrored(tmp_path / "o", address, True):
            pass
    assert not (tmp_path / "o").exists()


def test_runs_of_other_settings_are_refused_before_anything_changes(url, tmp_path):
    with mirrored(tmp_path / "a", url, resume=False):
        trained(tmp_path / "a" / "run", 7)
    other = replace(CONFIG, hidden=4)
    run(other, tmp_path / "b" / "run", stop_requested=lambda: True)
    here, there = contents(tmp_path / "b"), stored()
    for wrong in (
        lambda: Mirror(url).fetch(tmp_path / "b"),
        lambda: Own(tmp_path / "b", Mirror(url)).put_all(),
    ):
        with pytest.raises(UserError, match="run with other settings than .*run: choose another"):
            wrong()
    with pytest.raises(UserError, match="other settings"), mirrored(tmp_path / "b", url, True):
        pass
    assert contents(tmp_path / "b") == here
    assert {n: c for n, c in stored().items() if n.startswith("run/")} == {
        n: c for n, c in there.items() if n.startswith("run/")
    }


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_command_that_is_refused_changes_nothing_there(error, url, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(error), mirrored(tmp_path, url, resume=True):
        raise error
    assert stored() == {}

    def begin_and_fail():
        with mirrored(tmp_path, url, resume=True) as url_of:
            url_of(tmp_path / "run")
            (tmp_path / "notes.txt").write_text("more")
            raise error

    with pytest.raises(error):
        begin_and_fail()
    assert stored() == {STATE: b"{}\n", "notes.txt": b"more"}


def test_own_files_are_there_as_the_first_run_begins(url, tmp_path):
    """A machine that is lost later leaves what another needs to go on."""
    own = Own(tmp_path / "out", Mirror(url))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.json").write_text("{}")
    own.url_of(tmp_path / "out" / "run")
    assert stored()["comparison.json"] == b"{}"


@pytest.mark.parametrize(
    ("here", "there", "end"),
    [("old", "old", "old"), ("new", "old", "new"), ("old", "new", "new"), ("new", "new", "new")],
)
@pytest.mark.parametrize("name", ["comparison.json", "report.md"])
def test_of_own_files_the_one_that_changed_wins(name, here, there, end, url, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("old")
    with mirrored(out, url, resume=True):
        pass
    (out / name).write_text(here)
    put_there({name: there.encode()})
    with mirrored(out, url, resume=True):
        assert (out / name).read_text() == end
    assert stored()[name] == end.encode()


def test_progress_that_both_made_is_refused_and_tables_are_written_again(url, tmp_path):
    (tmp_path / "o").mkdir()
    for name in ("comparison.json", "report.md"):
        put_there({STATE: b"{}", name: b"theirs"})
        (tmp_path / "o" / name).write_text("own")
        if name == "report.md":
            (tmp_path / "o" / "comparison.json").write_text("theirs")
            with mirrored(tmp_path / "o", url, resume=True):
                assert (tmp_path / "o" / name).read_text() == "own"
        else:
            with (
                pytest.raises(UserError, match="have both changed: remove one"),
                mirrored(tmp_path / "o", url, resume=True),
            ):
                pass
            assert stored()[name] == b"theirs"


def test_a_database_in_use_goes_there_as_of_one_moment(url, tmp_path):
    with closing(sqlite3.connect(tmp_path / "sweep.db")) as used:
        used.execute("create table t (x)")
        used.execute("insert into t values (1)")
        used.commit()
        used.execute("insert into t values (2)")  # is not committed
        Own(tmp_path, Mirror(url)).put_own()
        used.commit()
    (tmp_path / "copy.db").write_bytes(stored()["sweep.db"])
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("select x from t").fetchall() == [(1,)]


def test_what_is_finished_and_there_is_neither_read_nor_put_again(url, tmp_path, monkeypatch):
    trained(tmp_path / "run")
    Mirror(url).put_runs(tmp_path)
    monkeypatch.setattr(Mirror, "write", lambda *_: pytest.fail("put again"))
    monkeypatch.setattr(RunFolder, "read_config", lambda *_: pytest.fail("read again"))
    Mirror(url).put_runs(tmp_path)


def test_a_mirror_that_goes_away_ends_no_run(url, tmp_path, monkeypatch):
    """The first copy must succeed; the end of the command tells of later ones."""

    def away(*_, **__):
        raise UserError("--mirror is away")

    order, path = {"mirror": f"{url}/run"}, trained(tmp_path / "run", 4)
    with _mirrored(order, path, shared=True) as copy:
        copy()
        monkeypatch.setattr(Mirror, "put_run", away)
        copy()
    with pytest.raises(UserError, match="away"), _mirrored(order, path, shared=True) as copy:
        copy()
    own = Own(tmp_path, Mirror(url))
    own.url_of(path)
    own._next = 0.0
    monkeypatch.setattr(Own, "put_own", away)
    assert own.url_of(path) == f"{url}/run"
    with pytest.raises(UserError, match="away"):
        own.put_all()


@pytest.mark.parametrize(
    "url_", ["nope://me:pa%20ss@host/x", "memory://me:pa%20ss@host/x", "http://h/x?sig=pa%20ss"]
)
def test_a_password_is_in_no_message(url_, monkeypatch):
    assert "pa" not in without_secrets(url_)
    monkeypatch.setattr(fsspec, "url_to_fs", refused)
    with pytest.raises(UserError) as told:
        Mirror(url_)
    assert "refused" in str(told.value)
    assert "pa" not in str(told.value)


def refused(url, **_):
    raise OSError(f"{url} refused: pa ss, pa%20ss")


@pytest.mark.parametrize("address", ["memory://", "file:///", "zip::s3://a/b", "://", "folder"])
def test_an_address_without_a_folder_is_refused(address):
    with pytest.raises(UserError, match="must be a URL such as"):
        Mirror(address)


def test_of_a_run_that_is_being_written_all_that_a_checkpoint_needs_comes_home(url, tmp_path):
    """Its worker puts a later state there between two reads."""
    early, late = trained(tmp_path / "early", 4), trained(tmp_path / "late", 8)
    mirror, reading = Mirror(url), Mirror.read
    mirror.put_run(early, now=True)
    seen = []

    def read(self, name):
        content = reading(self, name)
        seen.append(name)
        if len(seen) == 3:
            Mirror(url).put_run(late, now=True)
        return content

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mirror, "read", read)
        mirror.fetch(tmp_path / "home")
    trained(tmp_path / "home")
    assert RunFolder(tmp_path / "home").is_over()


def test_the_command_that_goes_on_names_the_mirror_without_its_password(tmp_path):
    asked = ComparisonSpec(SharedConfig(), ["adam"], [0], None, None, tmp_path, resume=False)
    assert again(asked, "ftp://me:secret@host/x").endswith("--resume --mirror ftp://host/x")


@pytest.mark.parametrize("verb", ["compare", "sweep"])
def test_a_url_is_no_folder(verb, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = command(verb, "--out", "s3://bucket/x", "--budget", "3gradients")
    assert code == 2
    assert "give --out FOLDER, and the URL as --mirror" in " ".join(error.split())
    assert not list(tmp_path.iterdir())
