"""What an error of a library says, in few words: for the messages of our own that quote it."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters; the name of its kind when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
