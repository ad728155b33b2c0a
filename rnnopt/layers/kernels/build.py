"""Compiles the CPU kernels, once for each kind of processor; needs only the standard library.

`pip install` runs it (from setup.py), and `python -m rnnopt.layers.kernels` runs it later, for
instance after a compiler was installed. Importing rnnopt never does. After a failed build the
layers use torch's own code. The result is stored in `build.json` beside the libraries, where
`rnnopt doctor` reads it.
"""

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("recurrent.cpp")
RECORD = "build.json"
FLAGS = [
    "-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden",
    "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast",
]  # fmt: skip
# Named as torch's CPU capabilities (torch.backends.cpu.get_cpu_capability); each requires no more
# than torch checks for that name.
X86_VARIANTS = {
    "AVX512": [
        "-mavx2", "-mfma", "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq",
        "-mprefer-vector-width=512",
    ],
    "AVX2": ["-mavx2", "-mfma"],
}  # fmt: skip
ANY_VARIANT = "DEFAULT"


def library_name(variant: str) -> str:
    """File name of the kernels for a kind of processor."""
    return f"recurrent_{variant.lower()}.so"


def source_hash() -> str:
    """SHA-256 of the sources; a library built from other sources is not used."""
    files = [SOURCE, *sorted(SOURCE.parent.glob("*.h"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def find_compiler() -> list[str] | None:
    """The C++ compiler's command: $CXX, else the first of g++, clang++, c++ that is installed."""
    if os.environ.get("CXX"):
        try:
            command = shlex.split(os.environ["CXX"])
        except ValueError:  # quotes that do not match
            return None
        return command if command and shutil.which(command[0]) else None
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    return None


def _write(target: Path, content: bytes) -> None:
    """Replaces a file atomically; a process that has loaded the old one keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of the last build in `folder`; None if nothing was built.

    Raises:
        ValueError: the record is damaged.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    wanted = {"built", "source", "error", "compiler", "openmp"}
    if not isinstance(record, dict) or not wanted <= set(record):
        raise ValueError(f"{folder / RECORD} is damaged")
    return record


def build(folder: Path) -> dict[str, Any]:
    """Compiles the kernels into `folder` and returns the record written there; never raises.

    The record: `compiler` or None, `built` (size of the library by variant), `openmp`, `source`
    (hash), `error` or None.
    """
    record: dict[str, Any] = dict(
        compiler=None, built={}, openmp=False, source=source_hash(), error=None
    )
    compiler = find_compiler()
    if compiler is None:
        wanted = os.environ.get("CXX") or "g++, clang++ or c++"
        record["error"] = f"no C++ compiler was found ({wanted})"
    else:
        try:
            version = _run([*compiler, "--version"]).splitlines()
            record["compiler"] = version[0] if version else " ".join(compiler)
            _compile_all(compiler, folder, record)
        except (OSError, subprocess.SubprocessError) as error:
            record["error"] = _first_line(error)
    try:
        _write(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        record["error"], record["built"] = f"cannot write {folder}: {error}", {}
    return record


def _compile_all(compiler: list[str], folder: Path, record: dict[str, Any]) -> None:
    # On an x86 processor without AVX2, torch's own products are faster.
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    variants: dict[str, list[str]] = X86_VARIANTS if is_x86 else {ANY_VARIANT: []}
    with tempfile.TemporaryDirectory() as scratch:
        record["openmp"] = _can_use_openmp(compiler, Path(scratch))
        flags = [*FLAGS, "-fopenmp"] if record["openmp"] else FLAGS

        def compile_one(variant: str) -> None:
            built = Path(scratch) / library_name(variant)
            _run([*compiler, *flags, *variants[variant], str(SOURCE), "-o", str(built)])
            _write(folder / built.name, built.read_bytes())

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            results = {name: pool.submit(compile_one, name) for name in variants}
        for name, result in results.items():
            error = result.exception()
            if error is None:
                record["built"][name] = (folder / library_name(name)).stat().st_size
            else:
                record["error"] = f"{name}: {_first_line(error)}"


def _can_use_openmp(compiler: list[str], scratch: Path) -> bool:
    """Whether the compiler has OpenMP; without it, as on macOS, the kernels use one thread."""
    probe = scratch / "probe.cpp"
    probe.write_text("#include <omp.h>\nint f() { return omp_get_max_threads(); }\n")
    try:
        _run([*compiler, "-shared", "-fPIC", "-fopenmp", str(probe), "-o", f"{probe}.so"])
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=True, timeout=600
    )
    return done.stdout


def _first_line(error: BaseException) -> str:
    """First line of the compiler's message, if it printed any."""
    failed = isinstance(error, subprocess.CalledProcessError)
    message = str(getattr(error, "stderr", None) or ("" if failed else error))
    if isinstance(error, subprocess.CalledProcessError) and not message.strip():
        message = f"{error.cmd[0]} failed with exit code {error.returncode}"
    lines = [line for line in message.splitlines() if line.strip()]
    wanted = [line for line in lines if "error" in line.lower()]
    return (wanted or lines or [repr(error)])[0].strip()


def main() -> int:
    """Builds in place; returns 0 if the kernels were built."""
    record = build(SOURCE.parent)
    if record["built"]:
        print(f"Built for {', '.join(record['built'])} with {record['compiler']}.")
    if record["error"]:
        print(f"Not built: {record['error'].rstrip('.')}.", file=sys.stderr)
    return 0 if record["built"] else 1
