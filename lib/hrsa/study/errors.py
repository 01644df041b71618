"""What an error says, in few words: for messages of our own that quote it, and for the one a command ends with."""

from __future__ import annotations

import errno
import re

GOES_ON = "what is finished stays. The same command goes on from here."
_EXPECTED = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError, ImportError)  # others: faults of ours
_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM = re.compile(r"No space left on device|Disk quota exceeded|File too large|\d+ requested and \d+ written|"
                      r"inline_container\S* \. unexpected pos")  # of safetensors, a notebook's cell, numpy, torch


class SignalError(BaseException):
    """The process was asked to end by a signal; no `except Exception` stops it on its way out."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; the name of its kind when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def is_expected(error: Exception) -> bool:
    """Whether an error is one of those that the world causes, and no fault of the program."""
    return isinstance(error, _EXPECTED) or _lacks_room(error)


def _lacks_room(error: Exception) -> bool:
    """Whether nothing more could be written; libraries say so by errors of their own kinds."""
    said = str(error)
    return getattr(error, "errno", None) in _ROOM or (bool(_NO_ROOM.search(said)) and "Make room" not in said)


def explained(error: Exception) -> str:
    """What went wrong, with what to do where the error itself does not say it: a full disk, a missing file, a fault."""
    kind, said = type(error).__name__, str(error).strip()
    if _lacks_room(error):
        place = getattr(error, "filename", None)
        return (f"expected room on the disk{f' for {place}' if place else ''}, got: "
                f"{getattr(error, 'strerror', None) or said}. Make room, and give the same command again: what is "
                "finished stays")
    if isinstance(error, OSError) and error.filename:
        return (f"expected to read or write {error.filename}, got: {error.strerror}. Restore the file, or permit "
                "it, and give the same command again")
    if isinstance(error, ModuleNotFoundError):
        return (f"expected the package {error.name}, got none: run `make setup`, which installs it, or pip install "
                "hrsa[train,book]")
    if isinstance(error, MemoryError):
        return f"expected more memory, got none ({said or kind}): end other programs, or take a smaller profile"
    return said if isinstance(error, _EXPECTED) and said else f"{kind}: {said}" if said else kind
