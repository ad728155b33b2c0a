"""Checksums in the files of a run: what is read is what was written, or it is not used.

A file of tensors is a zip archive. Its comment, which ends it, holds the sha256 of all before it:
it stays a file that torch.load and zip programs read. A JSON object holds under "check" the first
sixteen hexadecimal digits of the sha256 of the rest.

Files of folders begun before there were checksums have none; `required` says whether one must be.
"""

import hashlib
import io
import json
from typing import Any

import torch

MARK = b"rnnopt-sha256:"
LENGTH = len(MARK) + 64


class Damaged(Exception):
    """What was read is not what was written; says how that shows."""


def pack(value: dict[str, Any]) -> bytes:
    """Tensors and plain values as a file, with its checksum."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    # The archive ends in the length of its comment, two bytes, which torch leaves at zero.
    content = buffer.getvalue()[:-2] + LENGTH.to_bytes(2, "little")
    return content + MARK + hashlib.sha256(content).hexdigest().encode()


def unpack(content: bytes, required: bool, device: torch.device | None = None) -> Any:
    """What `pack` was given; nothing is loaded before the checksum fits, nothing is executed.

    Raises:
        Damaged: the checksum does not fit, is missing though `required`, or there are no tensors.
    """
    body, mark = content[:-LENGTH], content[-LENGTH:]
    if mark.startswith(MARK):
        if hashlib.sha256(body).hexdigest().encode() != mark.removeprefix(MARK):
            raise Damaged("its checksum does not fit its content")
    elif required:
        raise Damaged("its checksum is missing")
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        # torch then tells how to unpickle it after all, or what went wrong inside.
        if not isinstance(error, OSError | RuntimeError):
            reason = "it is damaged, or holds Python objects, which are never unpickled"
        raise Damaged(reason) from error


def with_check(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum."""
    return {**value, "check": _check(value)}


def without_check(value: dict[str, Any], required: bool) -> dict[str, Any]:
    """The object that `with_check` was given.

    Raises:
        Damaged: the checksum does not fit or is missing though `required`.
    """
    value = dict(value)
    check = value.pop("check", None)
    if check is None and required:
        raise Damaged("its checksum is missing")
    if check is not None and check != _check(value):
        raise Damaged("its checksum does not fit its content")
    return value


def _check(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
