"""Limits the memory that a file may require, by its size and by this machine's free memory.

A header can claim any number of values, and the longest series determines the size of a minibatch.
Both are checked before memory is allocated.
"""

import sys
from pathlib import Path

PACKED = 1100  # largest expansion of a packed byte; deflate reaches at most 1032
ALWAYS = 1 << 26  # bytes allowed for any file, however small: 64 MiB
LARGEST = 1e100  # value: a sum of a million squares is still finite


def free_memory() -> int:
    """Bytes that this process may still allocate; a very large number if unknown.

    It is the least of the machine's free memory and the limits on this process.
    """
    found = [1 << 62]
    if (available := _table("/proc/meminfo").get("MemAvailable:")) is not None:
        found.append(1024 * available)
    group = Path("/sys/fs/cgroup")
    if (most := _number(group / "memory.max")) is not None:
        facts = _table(str(group / "memory.stat"))
        kept = facts.get("inactive_file", 0) + facts.get("active_file", 0)  # freed when needed
        found.append(most - (_number(group / "memory.current") or 0) + kept)
    if sys.platform != "win32":
        import resource

        most_here, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most_here != resource.RLIM_INFINITY:
            taken = _number(Path("/proc/self/statm")) or 0
            found.append(most_here - taken * resource.getpagesize())
    return max(0, min(found))


def _table(path: str) -> dict[str, int]:
    """Numbers by name from a file of Linux; {} if there is none."""
    try:
        lines = [line.split() for line in Path(path).read_text("ascii").splitlines()]
        return {line[0]: int(line[1]) for line in lines if len(line) > 1}
    except (OSError, ValueError):
        return {}


def _number(path: Path) -> int | None:
    """The first number in a file; None if there is none."""
    try:
        return int(path.read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError if something needs more memory than is free.

    Args:
        needed: bytes needed.
        what: what needs the memory, such as "the padded series".
    """
    free = free_memory()
    if needed > free:
        raise ValueError(f"{what} would take {size(needed)} of memory, and {size(free)} are free.")


def check_declared(declared: int, stored: int, what: str) -> None:
    """Raises ValueError if a file declares more data than its size allows or memory can hold.

    Args:
        declared: bytes that the file declares.
        stored: bytes of the file, or of its relevant part.
        what: name of the data.
    """
    most = ALWAYS + PACKED * stored
    if declared > most:
        raise ValueError(
            f"{what} claims to be {size(declared)}, and {size(most)} at most can be in"
            f" {size(stored)} of file."
        )
    check_memory(declared, what)


def size(count: int) -> str:
    """A number of bytes in words."""
    value, unit = float(count), "bytes"
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.4g} {unit}"
