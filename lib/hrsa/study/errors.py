"""What an error says, in few words: for messages of our own that quote it, and for the one a command ends with."""

from __future__ import annotations

import errno

EXPECTED = (ValueError, OSError, RuntimeError, ArithmeticError, MemoryError, ImportError)  # others: faults of ours
_ROOM = (errno.ENOSPC, errno.EDQUOT)


class SignalError(BaseException):
    """The process was asked to end by a signal; no `except Exception` stops it on its way out."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; the name of its kind when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def explained(error: Exception) -> str:
    """What went wrong, with what to do where the error itself does not say it: a full disk, a missing file, a fault."""
    kind, said = type(error).__name__, str(error).strip()
    if isinstance(error, OSError) and error.errno in _ROOM:
        place = f" for {error.filename}" if error.filename else ""
        return (f"expected room on the disk{place}, got: {error.strerror}. Make room, and give the same command "
                "again: what is finished stays")
    if isinstance(error, OSError) and error.filename:
        return (f"expected to read or write {error.filename}, got: {error.strerror}. Restore the file, or permit "
                "it, and give the same command again")
    if isinstance(error, ModuleNotFoundError):
        return f"expected the package {error.name}, got none: run `make setup`, which installs it"
    if isinstance(error, MemoryError):
        return f"expected more memory, got none ({said or kind}): end other programs, or take a smaller profile"
    return said if isinstance(error, EXPECTED) and said else f"{kind}: {said}" if said else kind
