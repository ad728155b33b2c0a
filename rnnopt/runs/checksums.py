"""Checksums in the files of a run: a file that is not as written is not used.

A file of tensors is a zip archive. Its comment, at the end, holds the SHA-256 of all bytes before
it, so that torch.load and zip programs can still read the file. A JSON object holds under "check"
the first sixteen hexadecimal digits of the SHA-256 of the rest.

Files of older run folders have no checksums; `required` states whether one is required.
"""

import hashlib
import io
import json
from typing import Any

import torch

MARK = b"rnnopt-sha256:"
LENGTH = len(MARK) + 64


class Damaged(Exception):
    """A file is not as it was written; the message states the evidence."""


def pack(value: dict[str, Any]) -> bytes:
    """Tensors and plain values as the bytes of a file, with its checksum."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    # The archive ends in the length of its comment, two bytes, which torch leaves at zero.
    content = buffer.getvalue()[:-2] + LENGTH.to_bytes(2, "little")
    return content + MARK + hashlib.sha256(content).hexdigest().encode()


def unpack(content: bytes, required: bool, device: torch.device | None = None) -> Any:
    """The value that `pack` packed; the checksum is verified first, and no code is executed.

    Raises:
        Damaged: the checksum is wrong, or missing though `required`, or there are no tensors.
    """
    body, mark = content[:-LENGTH], content[-LENGTH:]
    if mark.startswith(MARK):
        if hashlib.sha256(body).hexdigest().encode() != mark.removeprefix(MARK):
            raise Damaged("its checksum does not fit its content")
    elif required:
        raise Damaged("its checksum is missing")
    try:
        return torch.load(io.BytesIO(content), weights_only=True, map_location=device)
    except Exception as error:  # torch.load raises many kinds of errors for a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        # torch's message explains how to unpickle it nevertheless, or an internal error.
        if not isinstance(error, OSError | RuntimeError):
            reason = "it is damaged, or holds Python objects, which are never unpickled"
        raise Damaged(reason) from error


def with_check(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its checksum."""
    return {**value, "check": _check(value)}


def without_check(value: dict[str, Any], required: bool) -> dict[str, Any]:
    """The object without its checksum, after verifying it.

    Raises:
        Damaged: the checksum is wrong, or missing though `required`.
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
