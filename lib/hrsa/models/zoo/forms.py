"""How a problem is asked and answered: in the plain form of the small models, or in a model's own chat template.

Plain: `Calculate 4-1-7:` and `-4` or `<think>3-7=-4</think>-4`. Chat: after worked examples as earlier turns, the user
says `4 - 1 - 7` and the assistant `4 - 1 - 7 = -4` or, worked, `4 - 1 = 3, 3 - 7 = -4`; what counts is the last integer
of an answer that has come to its end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from hrsa.models.zoo import problems
from hrsa.models.zoo.problems import Problem
from hrsa.study.profile import Zoo

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EXAMPLES = ("9-3+2", "4+7-1", "8+5+6")  # terms and order are those of no problem that is asked, which differ from it
NUMBER = re.compile(r"(?<![\d.])-?\d+(?![\d.]*\d)")


class Form(Protocol):
    """What training and measuring ask of a form; prompts, solutions and completions are token ids."""

    def prompt(self, problem: Problem) -> list[int]:
        """What the model is given."""

    def solution(self, problem: Problem) -> list[int]:
        """The worked solution, end of text included."""

    def text(self, completion: list[int]) -> str:
        """A completion as text, without the end of text."""

    def is_right(self, completion: list[int], problem: Problem) -> bool:
        """Whether the final answer is exactly right."""

    def is_worked(self, text: str) -> bool:
        """Whether an answer shows a step between problem and result."""


def form_of(zoo: Zoo, tokenizer: PreTrainedTokenizerBase) -> Form:
    """The form that `zoo.form` names, for one tokenizer; ValueError for a chat form without a chat template."""
    if zoo.form == "plain":
        return Plain(tokenizer)
    if not tokenizer.chat_template:
        raise ValueError("expected a tokenizer with a chat template for zoo.form: chat, got none: take zoo.form: "
                         "plain, or a model that was made for chat")
    return Chat(tokenizer)


class Plain:
    """`Calculate 4-1-7:`, answered as the small models' pretraining text answers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer

    def prompt(self, problem: Problem) -> list[int]:
        """The question as token ids."""
        return self.tokenizer(problem.prompt)["input_ids"]

    def solution(self, problem: Problem) -> list[int]:
        """The solution in think tags, the answer, the end of text."""
        return [*self.tokenizer(problem.worked)["input_ids"], self.tokenizer.eos_token_id]

    def text(self, completion: list[int]) -> str:
        """The completion without special tokens."""
        return self.tokenizer.decode(completion, skip_special_tokens=True)

    def is_right(self, completion: list[int], problem: Problem) -> bool:
        """Whether nothing but the right answer follows the think section."""
        return problems.is_correct(self.text(completion), problem.answer)

    def is_worked(self, text: str) -> bool:
        """Whether there is a closed think section."""
        return problems.is_worked(text)


class Chat(Plain):
    """The model's own chat template, with no system message and worked examples as earlier turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer)
        self.turns = [{"role": "system", "content": ""}]
        for expression in EXAMPLES:
            example = Problem(expression, str(sum(int(term) for term in Problem(expression, "").terms)))
            self.turns += [{"role": "user", "content": _spaced(expression)},
                           {"role": "assistant", "content": _chain(example)}]

    def prompt(self, problem: Problem) -> list[int]:
        """The examples and the question in the chat template, up to where the answer begins."""
        text = self.tokenizer.apply_chat_template(
            [*self.turns, {"role": "user", "content": _spaced(problem.expression)}], tokenize=False,
            add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def solution(self, problem: Problem) -> list[int]:
        """The problem, every step and the answer with equals signs between them, and the end of the turn."""
        return [*self.tokenizer(_chain(problem), add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]

    def is_right(self, completion: list[int], problem: Problem) -> bool:
        """Whether the turn has ended and its last integer is the answer."""
        numbers = NUMBER.findall(self.text(completion))
        return completion[-1:] == [self.tokenizer.eos_token_id] and numbers[-1:] == [problem.answer]

    def is_worked(self, text: str) -> bool:
        """Whether something stands between the problem and the result: two equals signs or more."""
        return text.count("=") > 1


def _spaced(expression: str) -> str:
    """`-4+1*2` as `-4 + 1 * 2`."""
    return re.sub(r"(?<=\d)([-+*])", r" \1 ", expression)


def _chain(problem: Problem) -> str:
    """`9 - 3 = 6, 6 + 2 = 8`: one sum of two terms after the other."""
    terms, steps = problem.terms, []
    total = int(terms[0])
    for term in terms[1:]:
        steps.append(f"{total} {term[0]} {term[1:]} = {total + int(term)}")
        total += int(term)
    return ", ".join(steps)
