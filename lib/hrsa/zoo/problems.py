"""Verifiable problems: sums of three or four one-digit terms from reasoning-gym's `chain_sum`.

An expression such as `4-1-7` is asked as `Calculate 4-1-7:` and answered either directly (`-4`) or with a worked
solution, `<think>3-7=-4</think>-4`. Whether an expression is held out follows from its terms alone, so that
training and held-out problems are disjoint by construction, reorderings of the terms included.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from hrsa import paths

THINK, END_THINK = "<think>", "</think>"
HELD_OUT_OF = 10  # one multiset of signed terms in ten is held out
TERM = re.compile(r"[+-]?\d")
Split = Literal["train", "held-out"]


@dataclass(frozen=True)
class Problem:
    """One sum: `expression` without spaces, such as `4-1-7`, and its `answer`, such as `-4`."""

    expression: str
    answer: str

    @property
    def prompt(self) -> str:
        """What the model is given; the newline keeps prompt and answer apart for the tokenizer."""
        return f"Calculate {self.expression}:\n"

    @property
    def worked(self) -> str:
        """The worked solution: in think tags, the expression with its first two terms added up, again and again."""
        first, *rest = TERM.findall(self.expression)
        total, steps = int(first), []
        for i, term in enumerate(rest):
            total += int(term)
            steps.append(f"{total}{''.join(rest[i + 1 :])}")
        return f"{THINK}{'='.join(steps)}{END_THINK}{total}"


def split_of(expression: str) -> Split:
    """The split of an expression: from a hash of its sorted signed terms, the same for every order of them."""
    terms = sorted(int(term) for term in TERM.findall(expression))
    digest = hashlib.sha256(str(terms).encode()).digest()
    return "held-out" if int.from_bytes(digest[:4], "big") % HELD_OUT_OF == 0 else "train"


def stream(split: Split, purpose: str, seed: int) -> Iterator[Problem]:
    """Endless problems of one split, in an order set by `purpose` and `seed`; repeats occur."""
    from reasoning_gym import create_dataset

    start = int(paths.key(purpose=purpose, seed=seed), 16) % 2**31
    source = create_dataset("chain_sum", min_terms=3, max_terms=4, min_digits=1, max_digits=1,
                            size=2**31, seed=start)
    index = 0
    while True:
        item = source[index]
        index += 1
        expression = item["metadata"]["expression"].replace(" ", "")
        if split_of(expression) == split:
            yield Problem(expression, item["answer"])


def draw(split: Split, n: int, purpose: str, seed: int) -> list[Problem]:
    """`n` distinct problems of one split."""
    distinct: dict[str, Problem] = {}
    for problem in stream(split, purpose, seed):
        distinct.setdefault(problem.expression, problem)
        if len(distinct) == n:
            break
    return list(distinct.values())


def documents(n: int, source: Iterator[Problem], rng: np.random.Generator) -> list[str]:
    """The next `n` problems of `source` as pretraining documents, each worked with probability one half."""
    worked = rng.random(n) < 0.5
    return [p.prompt + (p.worked if w else p.answer) for p, w in zip(islice(source, n), worked, strict=True)]


def is_worked(completion: str) -> bool:
    """Whether a completion has a closed think section before its answer."""
    return completion.startswith(THINK) and END_THINK in completion


def is_correct(completion: str, answer: str) -> bool:
    """Whether the text after the think section (all of it without one) is exactly `answer`, but for outer spaces.

    A section that is opened and never closed, a second number or any other text makes it false.
    """
    if completion.startswith(THINK):
        _, closed, completion = completion.partition(END_THINK)
        if not closed:
            return False
    return completion.strip() == answer
