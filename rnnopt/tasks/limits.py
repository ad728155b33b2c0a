"""What a file may ask for: so much memory as its size and this machine warrant, and no more.

A header can claim any number of values, and a padded table of series is as large as the longest one
makes it. Both are counted before anything is reserved.
"""

import sys
from pathlib import Path

PACKED = 1100  # bytes that a packed one may become; deflate cannot do more than 1032
ALWAYS = 1 << 26  # bytes that any file may take, however small: 64 MiB


def free_memory() -> int:
    """Bytes that this process may still take; without an answer from the system, very many.

    The least of what the machine has free and what limits on this process leave.
    """
    found = [1 << 62]
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        if (most := (group / "memory.max").read_text("ascii").strip()) != "max":
            found.append(int(most) - int((group / "memory.current").read_text("ascii")))
    except (OSError, ValueError, IndexError):
        pass  # another system, or no such group
    if sys.platform != "win32":
        import resource

        most_here, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most_here != resource.RLIM_INFINITY:
            found.append(most_here - _taken())
    return max(0, min(found))


def _taken() -> int:
    """Bytes of address space that this process has; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * 4096
    except (OSError, ValueError, IndexError):
        return 0


def check_memory(needed: int, what: str) -> None:
    """Raises ValueError if something needs more memory than is free.

    Args:
        needed: bytes.
        what: what needs them, such as "the padded series".
    """
    free = free_memory()
    if needed > free:
        raise ValueError(f"{what} would take {size(needed)} of memory, and {size(free)} are free.")


def check_declared(declared: int, stored: int, what: str) -> None:
    """Raises ValueError if a file says that it holds more than one of its size can, or than fits.

    Args:
        declared: bytes, as the file has it.
        stored: bytes of the file, or of the part of it that holds them.
        what: whose bytes they are.
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
