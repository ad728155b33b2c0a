"""Feeds mutated files to the readers, by the coverage they reach: `python fuzz/run.py csv ts`.

Needs the dependency group `fuzz` (atheris). What a target must do is laid down in tests/hostile.py.
Each target runs in a process of its own, which ends at the first input that crashes it, takes more
than five seconds or 2 GB; the input is then in fuzz/found, and is tried again by giving its path.
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
WORDS = (
    "label", "id", "time", "class", "@data", "@classLabel true", "@targetLabel true", "nan", "inf",
    "1e308", "-1e-320", "2024-03-10T12:30:00Z", "\\xef\\xbb\\xbf", "\\xff\\xfe", "\\x00", "?",
    "frank-wolfe:", "norm=", "inner_steps=", "adam:", "=true", "..", "none", "'shape': (",
    "'descr': '<f8'", "'|O'",
    "'fortran_order': True", "null", "[", "{", "\\xe2\\x80\\xae", "99999999999999999999",
)  # fmt: skip


def fuzz(name: str, seconds: int) -> None:
    """Fuzzes one target in this process, which ends with it."""
    import atheris

    # What this imports is instrumented: it tells which branches an input took.
    with atheris.instrument_imports(include=["rnnopt", "csv", "zipfile", "json"]):
        import hostile
    warnings.simplefilter("ignore")
    hostile.torch.set_num_threads(1)
    corpus, found = HERE / "corpus" / name, HERE / "found"
    corpus.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, content in enumerate(hostile.examples()[name]):
        (corpus / f"right-{number}").write_bytes(content)
        hostile.TARGETS[name](content)  # what is imported late is not part of an input's time
    words = HERE / "corpus" / "words"
    words.write_text("".join(f'"{word}"\n' for word in WORDS), "utf-8")

    def once(content: bytes) -> None:
        hostile.TARGETS[name](content)

    options = [
        f"-max_total_time={seconds}",
        "-timeout=5",
        "-rss_limit_mb=2048",
        "-max_len=8192",
        "-len_control=0",
    ]
    options += [f"-artifact_prefix={found}/{name}-", f"-dict={words}", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


def again(name: str, path: Path) -> None:
    """Gives one input to a target, without a fuzzer."""
    import hostile

    print("read" if hostile.TARGETS[name](path.read_bytes()) else "refused")


def main() -> int:
    """Fuzzes the targets that were asked for, each for so long; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help="unset means all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="try this file alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.input:
        again(asked.targets[0], asked.input)
        return 0
    if asked.here:
        fuzz(asked.targets[0], asked.seconds)
    if not asked.targets:
        import hostile

        asked.targets = list(hostile.TARGETS)
    failed = []
    for name in asked.targets:
        command = [sys.executable, __file__, name, "--here", "--seconds", str(asked.seconds)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "every input was read or refused")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
