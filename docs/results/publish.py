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

HERE = Path(__file__).parent
KEPT = ("config.json", "environment.json", "metrics.jsonl", "result.json")


def publish(name: str, out: Path) -> None:
    """Puts the results of `name` in the folder `out` on the page."""
    file = name.replace("/", "-")
    # A figure of another one's runs has a folder of its own below theirs, and no table.
    alone = (out / "results.csv").exists()
    results = out if alone else out / name.split("/")[-1]
    page = HERE.parent / "results.md"
    text = (results / "results.md").read_text().replace("(figure.png)", f"(results/{file}.png)")
    before, heading, rest = page.read_text().partition(f"## {name}: ")
    if not heading:
        raise SystemExit(f"{page} has no section {name}.")
    after = re.search(r"^## ", rest, re.MULTILINE)
    end = len(rest) if after is None else after.start()
    page.write_text(before + text.rstrip("\n") + "\n" + ("\n" if after else "") + rest[end:])
    for kind, ending in (("results.csv", "csv"), ("figure.png", "png")):
        if (results / kind).exists():
            (HERE / f"{file}.{ending}").write_bytes((results / kind).read_bytes())
    if alone and (out / "runs").is_dir():
        pack(out, HERE / "runs" / f"{file}.tar.xz")


def pack(out: Path, archive: Path) -> None:
    """Writes the finished runs below a folder into an archive, the same bytes for the same runs."""
    archive.parent.mkdir(exist_ok=True)
    with tarfile.open(archive, "w:xz") as packed:
        for result in sorted(out.rglob("result.json")):
            if json.loads(result.read_text())["status"] in ("running", "interrupted"):
                continue
            for kept in KEPT:
                content = (result.parent / kept).read_bytes()
                if kept == "environment.json":  # which machine it was is nobody's business
                    facts = json.loads(content)
                    facts.pop("system", None)
                    content = (json.dumps(facts, indent=2) + "\n").encode()
                entry = tarfile.TarInfo(str((result.parent / kept).relative_to(out)))
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))


def restore(name: str, out: Path) -> None:
    """Unpacks the runs of `name` into a folder."""
    with tarfile.open(HERE / "runs" / f"{name.replace('/', '-')}.tar.xz") as packed:
        packed.extractall(out, filter="data")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--restore", action="store_true", help="unpack the runs into the folder")
    given = parser.parse_args()
    (restore if given.restore else publish)(given.name, given.folder)


if __name__ == "__main__":
    main()
