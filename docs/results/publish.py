"""Puts a reproduced table or figure on the page of results: the maintainers' way to keep it honest.

    rnnopt reproduce asnaq/figure-1 --out runs/a1
    python docs/results/publish.py asnaq/figure-1 runs/a1

The section of docs/results.md is replaced, the CSV file and the figure beside this script too. The
runs go into runs/NAME.tar.xz: settings, curves and results of each, without weights. `restore`
unpacks them for `rnnopt reproduce NAME --out FOLDER`, which finds them finished and does the rest.
"""

import argparse
import io
import json
import re
import tarfile
from pathlib import Path

from rnnopt.config.errors import UserError
from rnnopt.experiments import reproduce
from rnnopt.experiments.reproduce.results import write_results
from rnnopt.experiments.reproduce.study import Study
from rnnopt.runs.folder import UNFINISHED, RunFolder

HERE = Path(__file__).parent
KEPT = ("config.json", "environment.json", "metrics.jsonl", "result.json")


def publish(name: str, out: Path, form: str = "cpu") -> None:
    """Puts the results of `name` in the folder `out` on the page, and its runs beside it.

    Raises:
        UserError: the folder or the page lacks them; nothing is changed.
    """
    study = reproduce.BY_NAME.get(name)
    file, page = name.replace("/", "-"), HERE.parent / "results.md"
    # A figure of another one's runs has a folder of its own below theirs.
    kin = study.runs if isinstance(study, Study) else ""
    shared = kin not in ("", name)
    results = out / name.split("/")[-1] if shared else out
    if isinstance(study, Study) and (out / "runs").is_dir():
        # What is there may be of the last part that was trained, or of its kin alone.
        results.mkdir(exist_ok=True)
        write_results(study, study.forms[form], out, results)
    try:
        text = (results / "results.md").read_text().replace("(figure.png)", f"(results/{file}.png)")
    except OSError as error:
        raise UserError(f"{results} has no results.md of rnnopt reproduce {name}.") from error
    heading = f"## {name}: "
    before, found, rest = page.read_text().partition(heading)
    if not found or not text.startswith(heading):
        where = page if not found else results / "results.md"
        raise UserError(f"{where} has no section {name}.")
    after = re.search(r"^## ", rest, re.MULTILINE)
    end = len(rest) if after is None else after.start()
    if not shared and (out / "runs").is_dir():
        pack(out, HERE / "runs" / f"{file}.tar.xz")
    if shared:  # its table stands there already
        title, claim, *_, picture = text.split("\n\n")
        same = f"Table and remarks: {kin}, from the same runs."
        text = "\n\n".join((title, claim, same, picture))
    text = finished(text)
    page.write_text(before + text.rstrip("\n") + "\n" + ("\n" if after else "") + rest[end:])
    for kind, ending in (("results.csv", "csv"), ("figure.png", "png")):
        if (results / kind).exists() and not (shared and ending == "csv"):
            (HERE / f"{file}.{ending}").write_bytes((results / kind).read_bytes())


def finished(text: str) -> str:
    """A page without rows that have no number yet, and without tables that have no row."""
    rows = re.sub(r"^\|[^|\n]*\|( – \|)+\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^### .*\n\n\|.*\|\n\|[-|]+\|\n\n", "", rows, flags=re.MULTILINE)


def pack(out: Path, archive: Path) -> None:
    """Writes the finished runs below a folder into an archive, the same bytes for the same runs."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for result in sorted(out.rglob("result.json")):
            if RunFolder.open(result.parent).read_result()["status"] in UNFINISHED:
                continue
            for kept in KEPT:
                content = (result.parent / kept).read_bytes()
                if kept == "environment.json":  # which machine it was is nobody's business
                    facts = json.loads(content)
                    facts.pop("system", None)
                    content = (json.dumps(facts, indent=2) + "\n").encode()
                entry = tarfile.TarInfo(str((result.parent / kept).relative_to(out)))
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(packed.getvalue())


def restore(name: str, out: Path) -> None:
    """Unpacks the runs of `name` into a folder without runs."""
    archive = HERE / "runs" / f"{name.replace('/', '-')}.tar.xz"
    if not archive.exists():
        there = sorted(path.name.removesuffix(".tar.xz") for path in archive.parent.glob("*.xz"))
        raise UserError(f"there are no runs of {name}, only of {', '.join(there)}.")
    if (out / "runs").exists():
        raise UserError(f"{out} has runs: choose another folder.")
    with tarfile.open(archive) as packed:
        packed.extractall(out, filter="data")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--restore", action="store_true", help="unpack the runs into the folder")
    given = parser.parse_args()
    try:
        (restore if given.restore else publish)(given.name, given.folder)
    except UserError as error:
        parser.exit(2, f"publish: {error}\n")


if __name__ == "__main__":
    main()
