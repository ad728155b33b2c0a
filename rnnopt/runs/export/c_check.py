"""Compiles a C header and runs it on series, if there is a compiler."""

import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rnnopt.config.errors import UserError

# Reads series, each its number of steps and then its values, and writes all answers. With a third
# argument, a number of repeats, it writes the seconds that ten passes over the first series take.
MAIN = """#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "network.h"

static NAME_state state;
static float y[NAME_outputs];

static void pass(const float *x, int steps, FILE *out)
{
    NAME_reset(&state);
    for (; steps--; x += NAME_inputs)
        if (NAME_step(x, &state, y) && out) fwrite(y, sizeof y, 1, out);
    END
}

int main(int count, char **given)
{
    FILE *in = fopen(given[1], "rb"), *out = fopen(given[2], "wb");
    int repeats = count > 3 ? atoi(given[3]) : 0, steps, i;
    while (fread(&steps, sizeof steps, 1, in) == 1) {
        const size_t numbers = (size_t)steps * NAME_inputs;
        float *x = malloc(numbers * sizeof(float) + 1);
        if (fread(x, sizeof(float), numbers, in) != numbers) return 1;
        if (!repeats) pass(x, steps, out);
        for (; repeats > 0; repeats--) {
            const clock_t begun = clock();
            double seconds;
            for (i = 0; i < 10; i++) pass(x, steps, 0);
            seconds = (double)(clock() - begun) / CLOCKS_PER_SEC;
            fwrite(&seconds, sizeof seconds, 1, out);
        }
        free(x);
    }
    return fclose(out);
}
"""
END = "if (NAME_end(&state, y) && out) fwrite(y, sizeof y, 1, out);"
TRIVIAL = "#include <math.h>\nint main(int n, char **v) { return v[n] ? (int)tanhf(1) : 0; }\n"


def compiler() -> list[str] | None:
    """A C compiler whose programs run here: $CC, else cc, gcc or clang; None without one."""
    try:
        own = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # quotes that do not match
        return None
    commands = [own] if own else [["cc"], ["gcc"], ["clang"]]
    return next((command for command in commands if _works(*command)), None)


@cache
def _works(*command: str) -> bool:
    """Whether programs that a command compiles run here."""
    with tempfile.TemporaryDirectory(prefix="rnnopt-") as folder:
        try:
            subprocess.run([str(compiled(list(command), TRIVIAL, Path(folder)))], check=True)
        except (OSError, subprocess.SubprocessError):
            return False
    return True


def compiled(command: list[str], program: str, folder: Path) -> Path:
    """The program's executable in `folder`.

    Raises:
        subprocess.CalledProcessError: it does not compile; `stderr` says why.
    """
    (folder / "main.c").write_text(program, encoding="utf-8")
    whole = [*command, "-std=c99", "-O2", "main.c", "-o", "main", "-lm"]
    subprocess.run(whole, cwd=folder, check=True, capture_output=True, text=True)
    return folder / "main"


class Program:
    """A compiled header, which runs on series; a context, at whose end its files are removed.

    Args:
        command: compiler.
        header: the header's text.
        name: beginning of its names.
        pool: steps of which the network takes the mean.

    Raises:
        UserError: the compiler refuses it.
    """

    def __init__(self, command: list[str], header: str, name: str, pool: int):
        self.pool, self._place = pool, tempfile.TemporaryDirectory(prefix="rnnopt-")
        self._folder = Path(self._place.name)
        program = MAIN.replace("END", END if pool > 1 else "").replace("NAME", name)
        try:
            (self._folder / "network.h").write_text(header, encoding="utf-8")
            self._file = compiled(command, program, self._folder)
        except BaseException as error:
            self._place.cleanup()
            if not isinstance(error, subprocess.SubprocessError):
                raise
            lines = (getattr(error, "stderr", None) or str(error)).splitlines()
            said = next((line for line in lines if "error" in line), str(error))
            raise UserError(
                f"{command[0]} could not compile the header, nothing was written: {said}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._place.cleanup()

    def __call__(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Answers (batch, time, output) to raw series; zeros where a series is over.

        Args:
            inputs: (batch, time, channel).
            lengths: (batch,) true steps.
        """
        counts = [-(-n // self.pool) for n in lengths.tolist()]
        found = self._run(inputs, lengths, np.float32).reshape(sum(counts), -1)
        return pad_sequence(list(torch.from_numpy(found).split(counts)), batch_first=True)

    def seconds(self, series: Tensor, repeats: int = 50) -> float:
        """Median time of a pass over a raw series (time, channel)."""
        taken = self._run(series[None], torch.tensor([len(series)]), np.float64, str(repeats))
        return float(np.median(taken)) / 10

    def _run(self, inputs: Tensor, lengths: Tensor, kind: Any, *options: str) -> np.ndarray:
        given, found = self._folder / "series", self._folder / "found"
        with given.open("wb") as file:
            for one, n in zip(inputs.numpy(), lengths.tolist(), strict=True):
                file.write(np.int32(n).tobytes() + one[:n].astype(np.float32).tobytes())
        subprocess.run([str(self._file), str(given), str(found), *options], check=True)
        return np.fromfile(found, kind)
