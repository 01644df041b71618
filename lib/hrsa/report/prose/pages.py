"""Page texts: templates that lie in `templates/`, as files to read and edit, with named places to fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hrsa.models.as_it_came import Manner
from hrsa.report.chapters import book_page
from hrsa.report.foreign import as_markdown
from hrsa.study.profile import Profile

_TITLES = {"05_correlation": "dimension-wise correlation", "06_procrustes": "Procrustes", "07_cka": "CKA",
           "08_knn": "k-NN overlap", "09_probes": "probes"}
_ROWS = {"token": "tokens, which are the same in both models",
         "text": "whole texts: the mean over the tokens of each, or the one token that a model pools",
         "word": "words: each tokenizer says which characters a token stands for, and the state of a word is the mean "
         "over the tokens that meet it"}


_KINDS = {"decoder": "decoder language model", "encoder": "encoder language model", "embedder": "embedder"}


def _run_sentence(names: Sequence[str], manners: Sequence[Manner]) -> str:
    """How the models are run: with what is theirs."""
    said = ("Each model attends as it was made to, which its network had to show, and an embedder pools as it was "
            "trained to.")
    prompted = [name for name, manner in zip(names, manners, strict=True) if manner.prompts]
    if prompted:
        said += (f" {' and '.join(prompted)} {'brings' if len(prompted) == 1 else 'bring'} prompts for queries or "
                 "documents; the texts here are neither, and all models are given them without a prompt.")
    return said


def filled_page(template: str, **places: Any) -> str:
    """The text of a template with its named places filled; KeyError names one that got no value."""
    return (Path(__file__).with_name("templates") / template).read_text(encoding="utf8").format(**places)


def front_page(profile: Profile, models: Sequence[Mapping[str, Any]], texts: pd.DataFrame,
               left_out: Mapping[str, str]) -> str:
    """Markdown: the two models, the texts, what the rows are, and which chapters are left out and why.

    `models`: for each its layers, width, vocabulary and manner (`as_it_came.Manner`); `texts` as
    `own_probes.read_texts` gives them; `left_out`: chapter -> reason.
    """
    lines = ["| model | from | kind | attention | pooling | layers | width | vocabulary |", "|---" * 8 + "|"]
    lines += [f"| {b.name} | {b.source} | {_KINDS[model['manner'].kind]} | {model['manner'].attention} | "
              f"{model['manner'].pooling or f'{profile.recipe.pooling} (not its own)'} | "
              f"{model['layers']} | {model['width']} | {model['vocabulary']:,} |"
              for b, model in zip(profile.backbones, models, strict=True)]
    manner = _run_sentence([b.name for b in profile.backbones], [model["manner"] for model in models])
    links = [f"[{_TITLES[chapter]}]({book_page(chapter)})" for chapter in profile.chapters or ()]
    reasons = [f"Left out: {_TITLES[chapter]}, since {as_markdown(why)}." for chapter, why in left_out.items()]
    by_set = ", ".join(f"{count} of set {as_markdown(name)}"
                       for name, count in texts.groupby("set").size().items())
    used = profile.analysis
    return filled_page(
        "compare.md", title=as_markdown(profile.title), models="\n".join(lines), manner=manner, rows=_ROWS[used.unit],
        chapters=" ".join([", ".join(links) + ".", *reasons]),
        texts=f"{by_set}; at most {used.texts_per_set} of a set are used, each up to {used.max_length} "
              f"{'tokens' if used.unit == 'token' else 'words'}, and a sample of at most {used.max_tokens} rows.")
