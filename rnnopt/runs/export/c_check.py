"""Compiles a C header and runs it on series, if there is a compiler."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rnnopt.config.errors import UserError

# Reads series, each its number of steps and then its values, and writes all answers.
MAIN = """#include <stdio.h>
#include "network.h"

int main(int count, char **files)
{
    FILE *in = fopen(files[count - 2], "rb"), *out = fopen(files[count - 1], "wb");
    static NAME_state state;
    float x[NAME_inputs], y[NAME_outputs];
    int steps;
    while (fread(&steps, sizeof steps, 1, in) == 1) {
        NAME_reset(&state);
        while (steps-- && fread(x, sizeof x, 1, in) == 1)
            if (NAME_step(x, &state, y)) fwrite(y, sizeof y, 1, out);
        END
    }
    return fclose(out);
}
"""
END = "if (NAME_end(&state, y)) fwrite(y, sizeof y, 1, out);"
TRIVIAL = "#include <math.h>\nint main(int n, char **v) { return v[n] ? (int)tanhf(1) : 0; }\n"


def compiler() -> list[str] | None:
    """A C compiler whose programs run here: $CC, else cc, gcc or clang; None without one."""
    try:
        own = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # quotes that do not match
        return None
    for command in [own] if own else [["cc"], ["gcc"], ["clang"]]:
        if not shutil.which(command[0]):
            continue
        with tempfile.TemporaryDirectory(prefix="rnnopt-") as folder:
            try:
                subprocess.run([str(compiled(command, TRIVIAL, Path(folder)))], check=True)
            except (OSError, subprocess.SubprocessError):
                continue
            return command
    return None


def compiled(command: list[str], program: str, folder: Path) -> Path:
    """The program's executable in `folder`.

    Raises:
        subprocess.CalledProcessError: it does not compile; `stderr` says why.
    """
    (folder / "main.c").write_text(program, encoding="utf-8")
    whole = [*command, "-std=c99", "-O2", "main.c", "-o", "main", "-lm"]
    subprocess.run(whole, cwd=folder, check=True, capture_output=True, text=True)
    return folder / "main"


def answers_in_c(
    command: list[str], header: str, name: str, pool: int, inputs: Tensor, lengths: Tensor
) -> Tensor:
    """Answers (batch, time, output) of a header to raw series; zeros where a series is over.

    Args:
        command: compiler.
        header: the header's text.
        name: beginning of its names.
        pool: steps of which the network takes the mean.
        inputs: (batch, time, channel).
        lengths: (batch,) true steps.

    Raises:
        UserError: the compiler refuses it.
    """
    program = MAIN.replace("END", END if pool > 1 else "").replace("NAME", name)
    counts = [-(-n // pool) for n in lengths.tolist()]
    with tempfile.TemporaryDirectory(prefix="rnnopt-") as place:
        folder = Path(place)
        (folder / "network.h").write_text(header, encoding="utf-8")
        with (folder / "series").open("wb") as file:
            for one, n in zip(inputs.numpy(), lengths.tolist(), strict=True):
                file.write(np.int32(n).tobytes() + one[:n].astype(np.float32).tobytes())
        try:
            executable = compiled(command, program, folder)
            subprocess.run([str(executable), folder / "series", folder / "answers"], check=True)
        except subprocess.SubprocessError as error:
            lines = (getattr(error, "stderr", None) or str(error)).splitlines()
            said = next((line for line in lines if "error" in line), str(error))
            raise UserError(
                f"{command[0]} could not compile and run the header, nothing was written: {said}"
            ) from error
        found = np.fromfile(folder / "answers", np.float32)
    parts = torch.from_numpy(found.reshape(sum(counts), -1)).split(counts)
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
