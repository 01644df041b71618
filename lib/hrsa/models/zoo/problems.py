"""Verifiable problems from reasoning-gym: sums of one-digit terms (`chain_sum`), and sums of products of two one-digit
factors (`basic_arithmetic`).

An expression such as `4-1-7` is asked as `Calculate 4-1-7:` and answered either directly (`-4`) or with a worked
solution, `<think>3-7=-4</think>-4`; that of `2*3-4+1` is `<think>6-4+1=2+1=3</think>3`. Whether an expression is held
out follows from its terms alone, so that training and held-out problems are disjoint by construction, other orders of
terms and factors included.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal

import numpy as np

from hrsa.study import store
from hrsa.study.profile import Zoo

THINK, END_THINK = "<think>", "</think>"
TERM = re.compile(r"[+-]?\d(?:\*\d)*")
Split = Literal["train", "held-out"]
ENDLESS = 2**31  # problems that a reasoning-gym data set is told to have


@dataclass(frozen=True)
class Problem:
    """An `expression` without spaces, such as `4-1-7` or `2*3-4+1`, and its `answer`, such as `-4`."""

    expression: str
    answer: str

    @property
    def family(self) -> str:
        """"sums", or "products" where something is multiplied."""
        return "products" if "*" in self.expression else "sums"

    @property
    def terms(self) -> list[str]:
        """Signed terms in order, such as `2*3`, `-4`, `+1`."""
        return TERM.findall(self.expression)

    @property
    def prompt(self) -> str:
        """What the model is given; the newline keeps prompt and answer apart for the tokenizer."""
        return f"Calculate {self.expression}:\n"

    @property
    def worked(self) -> str:
        """The worked solution: the steps in think tags, then the answer."""
        return f"{THINK}{'='.join(self.steps)}{END_THINK}{self.answer}"

    @property
    def steps(self) -> list[str]:
        """What is left after each step: products first, then the first two terms added up, again and again."""
        values = [_value(term) for term in self.terms]
        steps = [f"{values[0]}{_signed(values[1:])}"] if self.family == "products" else []
        while len(values) > 1:
            values = [values[0] + values[1], *values[2:]]
            steps.append(f"{values[0]}{_signed(values[1:])}")
        return steps


def _value(term: str) -> int:
    sign = -1 if term.startswith("-") else 1
    return sign * math.prod(int(factor) for factor in term.lstrip("+-").split("*"))


def _signed(values: list[int]) -> str:
    return "".join(f"{value:+d}" for value in values)


def split_of(expression: str, held_out_of: int = 10) -> Split:
    """The split of an expression: from a hash of its signed terms, the same for every order of terms and factors.

    One multiset of terms in `held_out_of` is held out.
    """
    terms = sorted(f"{'-' if _value(term) < 0 else '+'}{'*'.join(sorted(term.lstrip('+-').split('*')))}"
                   for term in TERM.findall(expression))
    digest = hashlib.sha256(" ".join(terms).encode()).digest()
    return "held-out" if int.from_bytes(digest[:4], "big") % held_out_of == 0 else "train"


def stream(split: Split, purpose: str, zoo: Zoo, terms: tuple[int, int] | None = None) -> Iterator[Problem]:
    """Endless problems of one split, the zoo's families in turn, in an order set by `purpose` and `zoo.seed`.

    They have `terms` numbers, fewest and most; those of `zoo.asked` unless told. Repeats occur.
    """
    start = int(store.key(purpose=purpose, seed=zoo.seed), 16) % 2**31
    for source in cycle([_source(family, terms or zoo.asked or zoo.terms, start) for family in zoo.families]):
        yield next(problem for problem in source
                   if split_of(problem.expression, zoo.held_out_of) == split)


def _source(family: str, terms: tuple[int, int], start: int) -> Iterator[Problem]:
    """Endless problems of one family, of both splits."""
    from reasoning_gym import create_dataset

    common = {"min_terms": terms[0], "max_terms": terms[1], "min_digits": 1, "max_digits": 1, "size": ENDLESS,
              "seed": start}
    items = create_dataset("chain_sum", **common) if family == "sums" else create_dataset(
        "basic_arithmetic", operators=["+", "-", "*"], allow_parentheses=False, allow_negation=False, **common)
    for index in range(ENDLESS):
        item = items[index]
        problem = Problem(item["metadata"]["expression"].replace(" ", ""), item["answer"])
        if problem.family == family and _is_plain(problem):
            yield problem


def _is_plain(problem: Problem) -> bool:
    """One-digit numbers, at most two factors a term, and the answer that the precedence of products gives.

    Some answers of `basic_arithmetic` are computed from left to right, and its one-digit numbers include 10.
    """
    return (not re.search(r"\d\d", problem.expression) and all(term.count("*") < 2 for term in problem.terms)
            and sum(map(_value, problem.terms)) == int(problem.answer))


def draw(split: Split, n: int, purpose: str, zoo: Zoo) -> list[Problem]:
    """`n` distinct problems of one split."""
    distinct: dict[str, Problem] = {}
    for problem in stream(split, purpose, zoo):
        distinct.setdefault(problem.expression, problem)
        if len(distinct) == n:
            break
    return list(distinct.values())


def problem_documents(n: int, source: Iterator[Problem], zoo: Zoo, rng: np.random.Generator) -> list[str]:
    """The next `n` problems of `source` as pretraining documents, each worked with probability `worked_documents`."""
    worked = rng.random(n) < zoo.worked_documents
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
