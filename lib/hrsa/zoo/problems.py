"""Verifiable problems from reasoning-gym: sums of one-digit terms (`chain_sum`) and sorting (`number_sorting`).

A sum is asked as `Calculate 4-1-7:`, digits to sort as `Sort 7391 up:`. Either is answered directly (`-4`, `1379`) or
with a worked solution, `<think>3-7=-4</think>-4`, `<think>1:739,3:79,7:9</think>1379`. Whether a problem is held out
follows from its terms or digits alone, so that training and held-out problems are disjoint by construction, other
orders of the same terms and the other direction of sorting included.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np

from hrsa import paths
from hrsa.profile import Zoo

THINK, END_THINK = "<think>", "</think>"
HELD_OUT_OF = 10  # one multiset of terms in ten is held out
TERM = re.compile(r"[+-]?\d")
Split = Literal["train", "held-out"]
ENDLESS = 2**31  # problems that a reasoning-gym data set is told to have


@dataclass(frozen=True)
class Problem:
    """A task such as `Calculate 4-1-7` or `Sort 7391 up`, and its `answer`, such as `-4` or `1379`."""

    task: str
    answer: str

    @property
    def family(self) -> str:
        """"sums" or "sorting"."""
        return "sums" if self.task.startswith("Calculate ") else "sorting"

    @property
    def prompt(self) -> str:
        """What the model is given; the newline keeps prompt and answer apart for the tokenizer."""
        return f"{self.task}:\n"

    @property
    def worked(self) -> str:
        """The worked solution, its steps in think tags.

        Of a sum: the expression with its first two terms added up, again and again. Of digits to sort: each digit
        taken, a colon, and those left.
        """
        steps = _added_up(self.terms) if self.family == "sums" else _taken_out(self.terms, self.answer)
        return f"{THINK}{steps}{END_THINK}{self.answer}"

    @property
    def terms(self) -> list[str]:
        """Signed terms of a sum, digits to sort."""
        return TERM.findall(self.task)


def _added_up(terms: list[str]) -> str:
    total, steps = int(terms[0]), []
    for i, term in enumerate(terms[1:], start=2):
        total += int(term)
        steps.append(f"{total}{''.join(terms[i:])}")
    return "=".join(steps)


def _taken_out(digits: list[str], answer: str) -> str:
    left, steps = list(digits), []
    for digit in answer[:-1]:
        left.remove(digit)
        steps.append(f"{digit}:{''.join(left)}")
    return ",".join(steps)


def split_of(problem: Problem) -> Split:
    """The split of a problem: from a hash of its family and its sorted terms, the same for every order of them."""
    terms = [*([problem.family] if problem.family != "sums" else []), *sorted(int(term) for term in problem.terms)]
    digest = hashlib.sha256(str(terms).encode()).digest()
    return "held-out" if int.from_bytes(digest[:4], "big") % HELD_OUT_OF == 0 else "train"


def stream(split: Split, purpose: str, zoo: Zoo) -> Iterator[Problem]:
    """Endless problems of one split, the zoo's families in turn, in an order set by `purpose` and `zoo.seed`.

    Repeats occur.
    """
    start = int(paths.key(purpose=purpose, seed=zoo.seed), 16) % 2**31
    for source in cycle([_source(family, zoo, start) for family in zoo.families]):
        yield next(problem for problem in source if split_of(problem) == split)


def _source(family: str, zoo: Zoo, start: int) -> Iterator[Problem]:
    """Endless problems of one family, of both splits."""
    from reasoning_gym import create_dataset

    if family == "sums":
        low, high = zoo.terms
        items = create_dataset("chain_sum", min_terms=low, max_terms=high, min_digits=1, max_digits=1, size=ENDLESS,
                               seed=start)
    else:
        low, high = zoo.digits
        items = create_dataset("number_sorting", min_numbers=low, max_numbers=high, min_decimals=0, max_decimals=0,
                               min_value=0, max_value=9, size=ENDLESS, seed=start)
    read = {"sums": _sum, "sorting": _sorting}[family]
    for index in range(ENDLESS):
        yield read(items[index])


def _sum(item: dict[str, Any]) -> Problem:
    return Problem(f"Calculate {item['metadata']['expression'].replace(' ', '')}", item["answer"])


def _sorting(item: dict[str, Any]) -> Problem:
    found = item["metadata"]
    given, ordered = ("".join(str(int(float(number))) for number in found[name])
                      for name in ("original_numbers", "sorted_numbers"))
    return Problem(f"Sort {given} {'up' if found['direction'] == 'ascending' else 'down'}", ordered)


def draw(split: Split, n: int, purpose: str, zoo: Zoo) -> list[Problem]:
    """`n` distinct problems of one split."""
    distinct: dict[str, Problem] = {}
    for problem in stream(split, purpose, zoo):
        distinct.setdefault(problem.task, problem)
        if len(distinct) == n:
            break
    return list(distinct.values())


def documents(n: int, source: Iterator[Problem], zoo: Zoo, rng: np.random.Generator) -> list[str]:
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
