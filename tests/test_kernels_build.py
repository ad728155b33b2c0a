"""What building and finding the compiled kernels promises: they never stand in the way.

Without a compiler, with one that fails, or with files that are missing, old or broken, rnnopt works
on torch's own code and says why. The numbers are test_elman's and test_indrnn's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import partly
from plain_recurrent import needs_kernels

from rnnopt import ElmanRNN, IndRNN
from rnnopt.layers.kernels import build, cpu

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def _found_anew(monkeypatch):
    """Every test looks for the kernels itself, unaware of the environment; so does what follows."""
    monkeypatch.delenv(cpu.SWITCH, raising=False)
    find = cpu.kernels
    find.cache_clear()
    yield
    find.cache_clear()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder in place of the one with the kernels."""
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    return tmp_path


def write_record(folder, **entries):
    """The record of a build that went well, for this processor, but for `entries`."""
    good = dict(
        compiler="a compiler",
        built={name: len("not a library") for name in ("AVX512", "AVX2", "DEFAULT")},
        openmp=True,
        source=build.source_hash(),
        error=None,
    )
    (folder / build.RECORD).write_text(json.dumps(good | entries))


def check_layers_work():
    for layer in (ElmanRNN(3, 5), IndRNN(3, 5, batch_norm="after")):
        output, last = layer(torch.ones(4, 2, 3))
        (output.sum() + last.sum()).backward()
        assert output.shape == (4, 2, 5)
        assert all(weight.grad is not None for weight in layer.parameters())


def in_new_process(code, **environment):
    """What a Python process of its own prints."""
    environment = {**os.environ, **environment}
    environment.pop(cpu.SWITCH, None)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- building -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", ["no-such-compiler", "/nowhere/g++ -O3", "no-such-ccache g++"])
def test_a_compiler_that_is_not_there_is_recorded(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    record = build.build(tmp_path / "new")
    assert record["error"] == f"no C++ compiler was found ({compiler})"
    assert (record["built"], record["compiler"]) == ({}, None)
    assert build.read_record(tmp_path / "new") == record
    assert [path.name for path in (tmp_path / "new").iterdir()] == [build.RECORD]


def test_a_machine_without_compilers_is_recorded(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    record = build.build(tmp_path)
    assert record["error"] == "no C++ compiler was found (g++, clang++ or c++)"
    assert record["built"] == {}


@pytest.mark.skipif(shutil.which("false") is None, reason="needs the command `false`")
def test_a_compiler_that_fails_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    record = build.build(tmp_path)
    assert record["built"] == {}
    assert "false" in record["error"]
    assert build.read_record(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [build.RECORD]


@pytest.mark.parametrize("compiler", ['"', " ", "''"])
def test_a_senseless_compiler_is_recorded(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    record = build.build(tmp_path)
    assert record["error"]
    assert record["built"] == {}


def fake_compiler(folder, script):
    """A command that stands in for a compiler."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@linux
def test_the_compilers_own_words_are_kept(tmp_path, monkeypatch):
    script = (
        'case "$*" in *--version*) echo "Good compiler 1.0"; exit 0;; esac\n'
        'echo "In file included from x:" >&2; echo "x.cpp:3: error: no good" >&2; exit 1'
    )
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    record = build.build(tmp_path / "kernels")
    assert record["compiler"] == "Good compiler 1.0"
    assert record["error"].endswith("x.cpp:3: error: no good")
    assert (record["built"], record["openmp"]) == ({}, False)


@linux
@pytest.mark.parametrize("openmp", [True, False])
def test_every_variant_is_compiled_with_openmp_where_there_is_any(openmp, tmp_path, monkeypatch):
    log = tmp_path / "log"
    script = (
        f'echo "$@" >> {log}\n'
        'case "$*" in *--version*) echo "Good compiler 1.0"; exit 0;; '
        f"*-fopenmp*) {'true' if openmp else 'exit 1'};; esac\n"
        'while [ "$1" != "-o" ]; do shift; done; echo built > "$2"'
    )
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    record = build.build(tmp_path / "kernels")
    assert (record["error"], record["openmp"]) == (None, openmp)
    assert record["source"] == build.source_hash()
    names = {path.name for path in (tmp_path / "kernels").iterdir()}
    assert names == {build.RECORD, *map(build.library_name, record["built"])}
    compiled = [line for line in log.read_text().splitlines() if str(build.SOURCE) in line]
    assert len(compiled) == len(record["built"]) >= 1
    assert all(("-fopenmp" in line) == openmp for line in compiled)


def test_the_hash_depends_on_every_source(tmp_path, monkeypatch):
    for file in build.SOURCE.parent.iterdir():
        if file.suffix in (".cpp", ".h"):
            shutil.copyfile(file, tmp_path / file.name)
    monkeypatch.setattr(build, "SOURCE", tmp_path / build.SOURCE.name)
    hashes = {build.source_hash()}
    included = re.findall(r'#include "(\w+\.h)"', (tmp_path / build.SOURCE.name).read_text())
    assert included
    for name in [build.SOURCE.name, *included]:
        with (tmp_path / name).open("a") as file:
            file.write("// one more line\n")
        hashes.add(build.source_hash())
    assert len(hashes) == 2 + len(included)


@pytest.mark.parametrize("built", [{}, {"AVX2": 1}])
def test_the_command_says_what_became_of_it(built, monkeypatch, capsys):
    record = dict(compiler="Good compiler 1.0", built=built, error="no good" if not built else None)
    monkeypatch.setattr(build, "build", lambda folder: record)
    assert build.main() == (0 if built else 1)
    out, err = capsys.readouterr()
    assert out == ("Built for AVX2 with Good compiler 1.0.\n" if built else "")
    assert err == ("" if built else "Not built: no good.\n")


# -- finding --------------------------------------------------------------------------------------


@needs_kernels
def test_the_kernels_for_this_processor_are_found_once():
    found = cpu.kernels()
    able = torch.backends.cpu.get_cpu_capability()
    assert found.library is not None
    assert found.reason == f"this processor can do {able}"
    assert cpu.kernels() is found


def test_the_environment_can_switch_them_off(monkeypatch):
    monkeypatch.setenv(cpu.SWITCH, "plain")
    assert cpu.kernels() == cpu.Kernels(None, "RNNOPT_KERNELS=plain is set")
    check_layers_work()


@pytest.mark.parametrize("value", ["off", "Plain", "1"])
def test_an_unknown_switch_is_refused(value, monkeypatch):
    monkeypatch.setenv(cpu.SWITCH, value)
    with pytest.raises(ValueError, match=f"RNNOPT_KERNELS must be plain or unset, got '{value}'"):
        cpu.kernels()


def test_kernels_that_were_never_built_are_no_problem(folder):
    assert cpu.kernels() == cpu.Kernels(None, "they have not been built")
    check_layers_work()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '{"built": ["AVX2"]}', "\x00\x01", '{"built": '],
)
def test_a_damaged_record_is_no_problem(text, folder):
    (folder / build.RECORD).write_text(text)
    found = cpu.kernels()
    assert found.library is None
    assert found.reason.startswith("the record of the build cannot be read: ")
    check_layers_work()


def test_a_record_that_cannot_be_read_is_no_problem(folder):
    (folder / build.RECORD).mkdir()
    assert cpu.kernels().reason.startswith("the record of the build cannot be read: ")
    (folder / build.RECORD).rmdir()
    (folder / build.RECORD).write_bytes(b"\xff\xfe\x00")
    cpu.kernels.cache_clear()
    assert cpu.kernels().reason.startswith("the record of the build cannot be read: ")
    check_layers_work()


def test_a_failed_build_is_named(folder):
    write_record(folder, built={}, error="no C++ compiler was found (g++)")
    reason = "the build failed: no C++ compiler was found (g++)"
    assert cpu.kernels() == cpu.Kernels(None, reason)
    check_layers_work()


def test_kernels_from_another_source_are_not_loaded(folder):
    write_record(folder, source="0" * 64)
    for name in ("AVX512", "AVX2", "DEFAULT"):
        (folder / build.library_name(name)).write_text("not a library")
    reason = "they were built from another version of the source"
    assert cpu.kernels() == cpu.Kernels(None, reason)
    check_layers_work()


@pytest.mark.parametrize("able", ["AVX512", "AVX2", "DEFAULT", "a future one"])
@pytest.mark.parametrize("content", [None, "not a library"])
def test_missing_and_broken_libraries_are_no_problem(able, content, folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: able)
    write_record(folder)
    for name in ("AVX512", "AVX2", "DEFAULT"):
        if content is not None:
            (folder / build.library_name(name)).write_text(content)
    found = cpu.kernels()
    assert found.library is None
    assert re.match(r"recurrent_\w+\.so cannot be loaded: ", found.reason)
    check_layers_work()


def test_a_truncated_library_is_not_loaded(folder, monkeypatch):
    # Loading it would end the process with a bus error: no exception to catch.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    write_record(folder)
    (folder / build.library_name("AVX2")).write_text("not a lib")
    assert cpu.kernels() == cpu.Kernels(None, "recurrent_avx2.so is not as it was built")
    check_layers_work()


@linux
def test_a_folder_that_cannot_be_written_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    (tmp_path / "file").write_text("")
    record = build.build(tmp_path / "file" / "kernels")
    assert record["error"].startswith("cannot write ")
    assert record["built"] == {}


def test_kernels_for_other_processors_alone_are_no_problem(folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    write_record(folder, built={"AVX512": 13})
    assert cpu.kernels() == cpu.Kernels(None, "none was built for this processor (AVX2)")
    check_layers_work()


@needs_kernels
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="needs two kinds to choose from"
)
@pytest.mark.parametrize("what", ["not built", "missing", "broken"])
def test_the_next_best_library_is_taken(what, folder, monkeypatch):
    real = Path(cpu.__file__).parent / build.library_name("AVX2")
    shutil.copyfile(real, folder / real.name)
    built = {"AVX2": real.stat().st_size}
    write_record(folder, built=built if what == "not built" else built | {"AVX512": 13})
    if what == "broken":
        (folder / build.library_name("AVX512")).write_text("not a library")
    found = cpu.kernels()
    assert found.variant == "AVX2"
    assert found.library is not None
    check_layers_work()


# -- using ----------------------------------------------------------------------------------------


MAPS = "open('/proc/self/maps').read()"


@linux
@pytest.mark.process
def test_importing_loads_and_compiles_nothing(tmp_path):
    code = f"""
import subprocess, sys
def refuse(*args, **kwargs):
    raise AssertionError('a process was started')
import torch
subprocess.Popen.__init__ = refuse
import rnnopt
assert not {{'triton', 'torch._dynamo'}} & set(sys.modules)  # a second and more
assert 'recurrent_' not in {MAPS}
print('done')
"""
    assert in_new_process(code) == "done\n"


@linux
@needs_kernels
@pytest.mark.process
@pytest.mark.full
def test_kernels_share_torchs_threads():
    # Two OpenMP libraries in a process would start threads for each, more than there are cores.
    code = f"""
import re, torch, rnnopt
torch.set_num_threads(2)
rnnopt.ElmanRNN(20, 200)(torch.ones(20, 50, 20))[0].sum().backward()
maps = {MAPS}
assert 'recurrent_' in maps
libraries = set(re.findall(r'\\S*lib[gi]?omp[^/\\s]*', maps))
assert len(libraries) == 1, libraries
print('done')
"""
    assert in_new_process(code) == "done\n"


@pytest.mark.parametrize("value", partly(["plain", ""], ["plain"]))
@pytest.mark.process
def test_the_switch_is_read_by_a_new_process(value):
    code = f"""
import os
os.environ['{cpu.SWITCH}'] = {value!r}
import torch, rnnopt
from rnnopt.layers.kernels import cpu
rnnopt.ElmanRNN(3, 5)(torch.ones(4, 2, 3))[0].sum().backward()
print(cpu.kernels().reason)
"""
    printed = in_new_process(code)
    assert (printed == "RNNOPT_KERNELS=plain is set\n") == (value == "plain")


def test_threads_are_as_many_as_torch_allows_and_the_work_is_worth():
    before = torch.get_num_threads()
    try:
        for most in (1, 2, 3):
            torch.set_num_threads(most)
            assert cpu.threads_for(0) == 1
            assert cpu.threads_for(cpu.WORK_OF_A_THREAD) == 1
            assert cpu.threads_for(2 * cpu.WORK_OF_A_THREAD - 1) == 1
            assert cpu.threads_for(2 * cpu.WORK_OF_A_THREAD) == min(2, most)
            assert cpu.threads_for(10**12) == most
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_only_numbers_that_the_kernels_know_are_given_to_them():
    single, double = torch.ones(2), torch.ones(2).double()
    assert cpu.usable(single, None, single)
    assert cpu.usable(double, double)
    assert not cpu.usable(single, double)
    assert not cpu.usable(single.half())
    assert not cpu.usable(single.long())
    assert not cpu.usable(single.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not cpu.usable(single)


@needs_kernels
def test_a_kernel_without_memory_says_so(monkeypatch):
    class Full:
        """A library whose functions all find no memory."""

        def __getattr__(self, name):
            return lambda *arguments: 1

    monkeypatch.setattr(cpu, "kernels", lambda: cpu.Kernels("AVX2", "a test", Full()))
    with pytest.raises(MemoryError, match="The elman kernel could not get its working memory"):
        ElmanRNN(3, 5)(torch.ones(4, 2, 3))
