"""C programs of exported headers, for tests: several networks in one program, compiled once."""

import re
import shutil
import subprocess

import numpy as np
import pytest

STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow", "-Wconversion",
          "-Wdouble-promotion", "-Wstrict-overflow=1"]  # fmt: skip
COMPILERS = {
    "c99": ["cc", "-std=c99", *STRICT],
    "c++": ["g++", "-x", "c++", *STRICT],
}
NETWORK = """
static void run_NAME(FILE *in, FILE *out)
{
    static NAME_state state;
    float x[NAME_inputs], y[NAME_outputs];
    int steps;
    printf("%d ", (int)sizeof state);
    if (fread(&steps, sizeof steps, 1, in) != 1) return;
    NAME_reset(&state);
    while (steps--) {
        if (fread(x, sizeof x, 1, in) != 1) return;
        if (NAME_step(x, &state, y)) fwrite(y, sizeof y, 1, out);
    }
    END
}
"""


def run_headers(folder, headers, series, compiler="c99"):
    """The answers of each header to its series, and the bytes of its state.

    Args:
        folder: to compile in.
        headers: texts; the names in the i-th begin with net<i>.
        series: of each header, (time, channel).
        compiler: "c99" or "c++".

    Returns:
        Of each header (answers, output), and a list of bytes.
    """
    command = COMPILERS[compiler]
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    program = "#include <stdio.h>\n"
    for i, text in enumerate(headers):
        (folder / f"net{i}.h").write_text(text)
        end = f"if (net{i}_end(&state, y)) fwrite(y, sizeof y, 1, out);"
        code = NETWORK.replace("END", end if f"net{i}_end" in text else "")
        program += f'#include "net{i}.h"\n' + code.replace("NAME", f"net{i}")
    calls = "".join(f"run_net{i}(in, out); fclose(out); out = fopen(\"out{i + 1}\", \"wb\");"
                    for i in range(len(headers)))  # fmt: skip
    program += f'int main(void) {{ FILE *in = fopen("in", "rb"), *out = fopen("out0", "wb");\
 {calls} fclose(out); fclose(in); return 0; }}\n'
    (folder / "main.c").write_text(program)
    with (folder / "in").open("wb") as file:
        for one in series:
            file.write(np.int32(len(one)).tobytes() + np.asarray(one, np.float32).tobytes())
    whole = [*command, "main.c", "-o", "main", "-lm"]
    built = subprocess.run(whole, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[:2000]
    ran = subprocess.run([folder / "main"], cwd=folder, capture_output=True, text=True, check=True)
    answers = []
    for i, text in enumerate(headers):
        outputs = int(re.search(rf"net{i}_outputs = (\d+)", text)[1])
        answers.append(np.fromfile(folder / f"out{i}", np.float32).reshape(-1, outputs))
    return answers, [int(size) for size in ran.stdout.split()]
