"""Whether the lists of blocks in an MDF file end: asammdf follows a circle forever.

A block of version 4 is a name, its number of links, and 64-bit places of other blocks; one of
version 3 is a name and 32-bit places.
"""

import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

DAMAGED = "it is damaged, cut off or no MDF file."
HEADER = 64  # place of the first block
# By the name of a block: its links, and the name of the blocks there, "" where several may be. Data
# groups have a list of groups, groups one of channels, and a channel may have parts.
LINKS = {
    "HD": ((0, "DG"), (1, "FH"), (2, "CH"), (3, "AT"), (4, "EV")),
    "DG": ((0, "DG"), (1, "CG"), (2, "")),
    "CG": ((0, "CG"), (1, "CN")),
    "CN": ((0, "CN"), (1, "")),
    "HL": ((0, ""),),
    **{name: ((0, name),) for name in ("FH", "CH", "AT", "EV", "DL", "LD")},
}
LINKS_3 = {
    "HD": ((0, "DG"),),
    "DG": ((0, "DG"), (1, "CG")),
    "CG": ((0, "CG"), (1, "CN")),
    "CN": ((0, "CN"),),
}


def check_lists(path: Path) -> None:
    """Raises ValueError if a list of blocks runs in a circle, or is of other blocks."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        _follow(content)


def _follow(content: mmap) -> None:
    modern = content[8:9] >= b"4"
    seen: set[int] = set()
    waiting = [(HEADER, "HD")]
    while waiting:
        place, name = waiting.pop()
        if place in seen:
            raise ValueError(DAMAGED)
        seen.add(place)
        mark = content[place : place + 4] if modern else b"##" + content[place : place + 2]
        found = mark[2:].decode("latin-1") if mark[:2] == b"##" else ""
        if name not in ("", found):
            raise ValueError(DAMAGED)
        waiting += _links(content, place, found) if modern else _links_3(content, place, found)


def _links(content: mmap, place: int, name: str) -> Iterator[tuple[int, str]]:
    """The blocks that one of version 4 names, with what they must be called."""
    if name in LINKS:
        (count,) = struct.unpack_from("<Q", content, place + 16)
        for link, kind in LINKS[name]:
            if link < count:
                (target,) = struct.unpack_from("<Q", content, place + 24 + 8 * link)
                if target:
                    yield target, kind


def _links_3(content: mmap, place: int, name: str) -> Iterator[tuple[int, str]]:
    """The same of version 3."""
    for link, kind in LINKS_3.get(name, ()):
        (target,) = struct.unpack_from("<I", content, place + 4 + 4 * link)
        if target:
            yield target, kind
