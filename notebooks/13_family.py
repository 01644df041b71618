# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The family
#
# Three arms and three seeds are what a laptop can train while one waits. The whole family, with its controls, takes
# hours; its results come with the project. They answer what the smaller run cannot: whether RLVR moves a model further
# than any other training of the same length would, and how different two models are that share nothing but a recipe.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose, results
from hrsa.study import load_profile
from hrsa.verdict import evidence, synthesis

study = load_profile(profile)

# %% [markdown]
# ## Where these results come from

# %%
tables, record = results.read_results("family")
Markdown(prose.verdict.committed_origin(record))

# %% [markdown]
# ## The models
#
# All come with the project, with their cards in `data/backbones/`. What each solves of the held-out problems says how far
# it got at what it was trained for, before any contrastive training.

# %%
cards = prose.backbones.make_cards(load_profile("family"))
plots.bars(prose.backbones.accuracy(cards), x="backbone", y="value", hue="mode", low="low", high="high", quantity="score",
           ylabel="share of held-out problems solved").publish(
    study.name, "13_family", "accuracy", "Accuracy of every shipped backbone on held-out problems with 95% intervals")

# %% [markdown]
# How to read it: all answered the same problems, so compare differences, below, rather than overlap of the bars' intervals.

# %%
Markdown(prose.backbones.findings(cards))

# %%
plots.table(prose.backbones.card_table(cards)[["backbone", "start", "updates", "perplexity", "KL"]],
            "Perplexity on held-out real text, and KL divergence from the base in nats per token of own answers")

# %% [markdown]
# ## Scores of the five pairs
#
# Each arm against the base it came from: continued pretraining (the control for any further training), SFT, RLVR,
# prolonged RLVR, and a second base from other random weights, which is as different as two models of one recipe get.

# %%
Markdown(prose.verdict.verdict_lines(tables["verdicts"]))

# %% [markdown]
# This run has pairs of its own; those of the same name are shown beside the committed ones.

# %%
stated = study.verdict.model_dump()
pool = evidence.make_pool(study)
own = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds, **stated)
both = results.side_by_side(tables["verdicts"].query("family == 'all'"), own.query("family == 'all'"))

# %%
plots.forest(both, label="pair", value="difference", low="low", high="high", hue="source",
             margin=record["profile"]["verdict"]["margin"], xlabel="score of b minus score of a").publish(
    study.name, "13_family", "verdicts",
    "Forest plot of the score difference of the five pairs of the family, committed, beside those of this run")

# %% [markdown]
# How to read it: the band is the margin. Rows of one pair in two colours are two runs of one question, with other
# numbers of seeds and, where the profiles differ, another recipe; they should overlap.

# %%
columns = ["pair", "kind", "verdict", "difference", "low", "high", "smallest_margin", "seeds", "source"]
plots.table(both[columns], "Verdicts over all tasks, committed and of this run", decimals=4)

# %%
Markdown(prose.verdict.sight(tables["controls"]))

# %% [markdown]
# ## What changed inside
#
# Matching layers at the four levels. The second base shows what "different" looks like on each scale; continued
# pretraining shows what any further training does.

# %%
plots.curves(tables["levels"].query("models == 'backbones'"), x="layer_x", y="value", hue="pair", facet="similarity",
             low="low", high="high", quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "13_family", "backbones",
    "Committed: similarity of matching layers of the backbones of the five pairs at four levels")

# %% [markdown]
# How to read it: 1 means alike. A pair whose curve lies near that of continued pretraining was moved no further than by
# further training of any kind.

# %%
plots.curves(tables["levels"].query("models == 'embedders'"), x="layer_x", y="value", hue="pair", facet="similarity",
             low="low", high="high", quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "13_family", "embedders",
    "Committed: similarity of matching layers of the embedders of the five pairs at four levels")

# %% [markdown]
# How to read it: the same after contrastive training with one recipe. Curves that rise towards 1 from the figure before
# are realignment; the second base is the test of it, since it has the furthest to go.

# %%
similar = results.side_by_side(tables["similarities"], synthesis.make_similarities(study))
plots.table(similar[["pair", "metric", "models", "value", "low", "high", "source"]],
            "Similarities as one number each, committed and of this run")

# %% [markdown]
# How to read it: means over matching layers (inverse row entropy: the last layer), as the claims of the verdict use them.
# A pair appears twice where this run has it too.
