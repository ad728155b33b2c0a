"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket alone."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs, or None where it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    program = shutil.which("initdb")
    return Path(program).resolve().parent if program else None


def _as_user(command: list[str], user: str | None) -> None:
    """Runs a command; as `user` where one is given, because the server refuses to run as root."""
    if user is not None:
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Starts a server with its files in `folder`, which must be short, as a socket's path must.

    Yields its address, postgresql://…, of an empty database.
    """
    programs = binaries()
    assert programs is not None
    user = None
    if os.geteuid() == 0:
        user = "postgres" if any(p.pw_name == "postgres" for p in pwd.getpwall()) else "nobody"
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    data, log = folder / "data", folder / "log"
    _as_user([str(programs / "initdb"), "-D", str(data), "-U", "tester", "-A", "trust", "-N"], user)
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    control = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
    _as_user([*control, "-l", str(log), "-o", options, "start"], user)
    try:
        yield f"postgresql://tester@/postgres?host={folder}"
    finally:
        _as_user([*control, "-m", "immediate", "stop"], user)
