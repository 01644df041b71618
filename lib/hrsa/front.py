"""Front page of a report on any two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hrsa.study.profile import Profile
from hrsa.workflow import graph

TITLES = {"05_correlation": "dimension-wise correlation", "06_procrustes": "Procrustes", "07_cka": "CKA",
          "08_knn": "k-NN overlap", "09_probes": "probes"}
ROWS = {"token": "tokens, which are the same in both models", "text": "whole texts: the mean over the tokens of each",
        "word": "words: each tokenizer says which characters a token stands for, and the state of a word is the mean "
                "over the tokens that meet it"}
PAGE = """# {title}

How alike are two models, layer by layer, on texts of your own? The measures are those of Hierarchical Representation
Similarity Analysis {{cite}}`chan2026reasoning`, from strict to loose: dimensions, basis, global shape, neighbourhoods.
The models are taken as they came; nothing is trained. Where a chapter speaks of embedders or of a noise floor, which
needs two seeds of one training, this report has none.

{models}

**Texts.** {texts}

**Rows.** What is compared are {rows}.

**Chapters.** {chapters}

## How to read this report

Layer 0 is the embedding output, layer *n* the output of block *n*, and `+norm` the last one after the final
normalisation; models of unequal depth are compared at equal relative depth. Shaded bands are 95% intervals over texts.
*Null* is the value for rows paired at random with rows of like text length and position, *ceiling* that of one model
with itself in bf16. [Run records](run_records.md) list what was run, with which versions, and how long it took.

## References

```{{bibliography}}
```
"""


def front_page(profile: Profile, models: Sequence[Mapping[str, Any]], texts: pd.DataFrame,
               left_out: Mapping[str, str]) -> str:
    """Markdown: the two models, the texts, what the rows are, and which chapters are left out and why.

    `models` as `hrsa.workflow.compare_two.describe` gives them, `texts` as `own_texts.read_texts`, `left_out` chapter -> reason.
    """
    lines = ["| model | from | layers | width | vocabulary |", "|---|---|---|---|---|"]
    lines += [f"| {b.name} | {b.source} | {model['layers']} | {model['width']} | {model['vocabulary']:,} |"
              for b, model in zip(profile.backbones, models, strict=True)]
    pair = profile.pairs[0].name
    links = [f"[{TITLES[chapter]}]({graph.page(chapter, pair)})" for chapter in profile.chapters or ()]
    reasons = [f"Left out: {TITLES[chapter]}, since {why}." for chapter, why in left_out.items()]
    by_set = ", ".join(f"{count} of set {name}" for name, count in texts.groupby("set").size().items())
    used = profile.analysis
    return PAGE.format(
        title=profile.title, models="\n".join(lines), rows=ROWS[used.unit], chapters=" ".join([
            ", ".join(links) + ".", *reasons]),
        texts=f"{by_set}; at most {used.texts_per_set} of a set are used, each up to {used.max_length} "
              f"{'tokens' if used.unit == 'token' else 'words'}, and a sample of at most {used.max_tokens} rows.")
