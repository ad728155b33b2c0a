"""That nothing in the package executes what a file holds: no pickle, no eval, no unsafe loader."""

import ast
from pathlib import Path

import pytest

import rnnopt

FILES = sorted(Path(rnnopt.__file__).parent.rglob("*.py"))
MODULES = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml",
    "jsonpickle", "code", "codeop", "tarfile",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"read_pickle", "extractall", "extract"}
# What needs an argument to be safe, and the argument.
GUARDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def unsafe(source):
    """What in a source might execute a file, as (line, what)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(one.name for one in node.names)]
        found += [(node.lineno, name) for name in names if name.partition(".")[0] in MODULES]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS or called.rpartition(".")[2] in METHODS:
                found.append((node.lineno, called))
            wanted = GUARDED.get(called.replace("numpy.", "np."))
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if wanted and given.get(wanted[0]) != str(wanted[1]):
                found.append((node.lineno, f"{called} without {wanted[0]}={wanted[1]}"))
            if given.get("allow_pickle") == "True" or given.get("weights_only") == "False":
                found.append((node.lineno, called))
    return found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import joblib", "import yaml", "eval('1')",
        "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
        "np.load(path, allow_pickle=True)", "pandas.read_pickle(path)", "exec(text)",
        "archive.extractall(place)", "from os import path\nimport marshal as m",
    ],
)  # fmt: skip
def test_what_executes_files_is_noticed(source):
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    ["torch.load(p, weights_only=True)", "np.load(p, allow_pickle=False)", "re.compile(x)"],
)
def test_what_does_not_is_let_pass(source):
    assert not unsafe(source)


def test_nothing_in_the_package_executes_a_file():
    assert len(FILES) > 100
    wrong = {str(path): found for path in FILES if (found := unsafe(path.read_text("utf-8")))}
    assert wrong == {}
