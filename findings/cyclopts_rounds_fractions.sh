#!/usr/bin/env bash
# cyclopts rounds a fraction that is given to an option of type int.
#
# Expected: `--layers 1.5` for `layers: int` is refused, as argparse, click and typer refuse it.
# Seen with cyclopts 5.5.2: the function is called with 2, without a warning; 2.5 becomes 2 (half to
# even). `--layers two` is refused. An option that counts things needs a converter of its own.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "cyclopts==5.5.2" "click==8.3.0"
cat > "$folder/check.py" <<'PYTHON'
import click
import cyclopts
from click.testing import CliRunner

app = cyclopts.App(name="try")


@app.default
def main(*, layers: int) -> int:
    return layers


def taken(text: str) -> int:
    call, bound, _ = app.parse_args(["--layers", text], exit_on_error=False, print_error=False)
    return call(*bound.args, **bound.kwargs)


seen = {text: taken(text) for text in ("1.5", "2.5", "-0.4")}
print("cyclopts", cyclopts.__version__, seen)
assert seen == {"1.5": 2, "2.5": 2, "-0.4": 0}, "the behaviour has changed"
try:
    taken("two")
except cyclopts.CoercionError as error:
    print("refused:", " ".join(str(error).split()))
else:
    raise SystemExit("words are taken now")


@click.command()
@click.option("--layers", type=int)
def other(layers: int) -> None:
    print(layers)


result = CliRunner().invoke(other, ["--layers", "1.5"])
print("click", result.exit_code, result.output.strip().splitlines()[-1])
assert result.exit_code == 2, "click takes fractions now"
PYTHON
"$folder/venv/bin/python" "$folder/check.py"
