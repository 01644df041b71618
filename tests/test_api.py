"""The pages on rooms of the package: what they say of the source, and the examples in it, which run."""

import doctest
from importlib import import_module
from types import FunctionType

import pytest

from hrsa.report.book.api import API, api_page, docstring_said
from hrsa.study.code_hash import PACKAGE

MODULES = [f"hrsa.{room}.{file.stem}" for room in API for file in sorted((PACKAGE / room).glob("*.py"))
           if file.name != "__init__.py"]


@pytest.mark.parametrize("room", API)
def test_the_examples_of_a_room_run(room):
    found = [doctest.testmod(import_module(name)) for name in MODULES if f".{room}." in name]
    assert sum(part.failed for part in found) == 0 and sum(part.attempted > 0 for part in found) >= 3


@pytest.mark.parametrize("room", API)
def test_a_page_has_every_module_and_function_of_its_room_with_its_words_and_examples(room):
    page = api_page(room)
    for name in (name for name in MODULES if f".{room}." in name):
        module = import_module(name)
        assert f"\n## `{name}`\n" in page
        own = [key for key, value in vars(module).items() if isinstance(value, FunctionType | type)
               and value.__module__ == name and not key.startswith("_")]
        assert [key for key in own if f"\n### `{key}`\n\n```python\n" not in page] == []
    assert page.count("```pycon\n>>> ") >= 3 and "&#95;&#95;" not in page


def test_a_docstring_keeps_its_code_its_lists_and_its_emphasis_and_nothing_else_is_markup():
    said = docstring_said("""First *line* with `x_1`, |O| and <b>.

    1. One
       more.
    2. **Two** $x$.

    Args:
        name: what,
            and more.
        other: [it](x).

    >>> 1 + 1
    2
    """)
    assert said.split("\n\n") == [
        "First *line* with `x_1`&#44; &#124;O&#124; and &#60;b&#62;.", "1. One more.\n2. **Two** &#36;x&#36;.", "Args:",
        "- name: what, and more.\n- other: &#91;it&#93;&#40;x&#41;.", "```pycon\n>>> 1 + 1\n2\n```"]
