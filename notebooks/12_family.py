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
# # The family of arms
#
# The whole family of arms, with its controls, takes hours; its results come with the project. They answer what the
# smaller run cannot: whether RLVR moves a model further than other training would, further than another run of the same
# RLVR, and how different two runs of one recipe are.

# %% tags=["parameters"]
profile = "smoke"

# %%
import pandas as pd
from IPython.display import Markdown

from hrsa.report import chapters, plots, prose, results
from hrsa.study import load_profile
from hrsa.verdict import claims, evidence, synthesis

study = load_profile(profile)

# %% [markdown]
# ## Where these results come from

# %%
studies = results.read_every()
Markdown("\n\n".join(prose.verdict.committed_origin(one.record) for one in studies))

# %% [markdown]
# ## The models
#
# All come with the project, with their cards in `data/backbones/`.

# %%
cards = results.joined_cards(studies)
plots.bars(prose.backbones.accuracy(cards), x="backbone", y="value", hue="mode", low="low", high="high", quantity="score",
           ylabel="share of held-out problems solved").publish(
    study.name, "12_family", "accuracy", "Accuracy of every backbone of the committed studies on held-out problems with 95% intervals")

# %% [markdown]
# How to read it: what each solves of the held-out problems, before any contrastive training. All answered the same
# problems, so compare the differences below rather than the overlap of the bars' intervals.

# %%
Markdown(prose.backbones.changes_said(cards))

# %%
plots.table(prose.backbones.card_table(cards)[["backbone", "start", "updates", "perplexity", "KL"]],
            "Perplexity on held-out real text, and KL divergence from the base in nats per token of own answers")

# %% [markdown]
# ## How far does RLVR move a backbone?
#
# A pair of low similarity says little where any training would have moved the model as far. So the base and its RLVR
# model are held against the base and its continued pretraining, against two runs of the same RLVR, and against SFT. In
# brackets 95% intervals over texts; every backbone is one run. Where the intervals of two pairs overlap, the answer is
# inconclusive.

# %%
told = []
for one in studies:
    told.append(prose.yardsticks.committed_movement(one.name, one.tables, one.record["profile"], one.cards, told))
Markdown("\n\n".join(filter(None, told)))

# %% [markdown]
# The same question to the backbones of this run:

# %%
own_similar = synthesis.make_similarities(study, study.compared())
Markdown(prose.yardsticks.movement_said(claims.movements(own_similar, study.model_dump(mode="json"))))

# %% [markdown] tags=["along-rl"]
# ## Along RL
#
# When does a model begin to move, and does it move on as long as it is trained? Arms of reinforcement learning were
# trained again by the recipe of `data/backbones`, and their adapters kept after some updates. Beside them stand all
# other arms, those that are no RLVR once more with their change of the weights scaled to the size of an RLVR arm's: at
# equal distance in weights, what is left is where training went and not how far. All are compared with the base on the
# probe texts, in the blocks that the study trains.

# %% tags=["along-rl"]
along = results.read_committed("along_rl") if chapters.ALONG.is_file() else ()
Markdown(prose.backbones.along_said(*along) if along else "No points are there yet: `hrsa backbones --along` makes them.")

# %% tags=["along-rl"]
along and plots.curves(prose.backbones.along_figure(along[0]), x="KL", y="value", hue="arm", dash="made", facet="similarity", low="low",
             high="high", quantity="similarity", xlabel="KL divergence from the base (nats per token)", ylabel="similarity").publish(
    study.name, "12_family", "along",
    "Committed: similarity of arms to their base at four levels over KL divergence from it")

# %% [markdown] tags=["along-rl"]
# How to read it: each point is an arm after some updates; more alike is up. A line falls to the right where geometry moves
# with behaviour. An arm above others at the same divergence changed its answers at less cost to its geometry.

# %% tags=["along-rl"]
along and plots.table(prose.backbones.along_table(along[0]), "The points: weights: relative change of all matrices; KL in nats per token; "
            "distance from identical models with 95% intervals over texts", decimals=4)

# %% [markdown]
# ## Scores of the pairs
#
# Each arm against the base it came from.

# %%
verdicts = results.joined_tables(studies, "verdicts")
Markdown("\n\n".join(f"Study `{one.name}`:\n\n{prose.verdict.verdict_lines(one.tables['verdicts'])}" for one in studies))

# %% [markdown]
# This run has pairs of its own; those of the same name are shown beside the committed ones.

# %%
stated = study.verdict.model_dump()
pool = evidence.make_pool(study)
own = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds, **stated)
both = results.side_by_side(verdicts.query("family == 'all'"), own.query("family == 'all'"))

# %%
plots.forest(both, label="pair", value="difference", low="low", high="high", hue="source",
             margin=max(one.record["profile"]["verdict"]["margin"] for one in studies), xlabel="score of b minus score of a").publish(
    study.name, "12_family", "verdicts",
    "Forest plot of the score difference of the pairs of the committed studies, beside those of this run")

# %% [markdown]
# How to read it: the band is the (largest) margin. Rows of one pair in two colours are two runs of one question, with
# other numbers of seeds and, where the profiles differ, another recipe; they should overlap.

# %%
columns = ["pair", "kind", "verdict", "difference", "low", "high", "smallest_margin", "seeds", "source"]
plots.table(both[columns], "Verdicts over all tasks, committed and of this run", decimals=4)

# %%
Markdown("\n\n".join(prose.verdict.sight(one.tables["controls"]) for one in studies))

# %% [markdown]
# ## What changed inside
#
# Matching layers at the four levels. Continued pretraining shows what any further training does, two runs of one arm
# what another run does.

# %%
every = results.joined_tables(studies, "levels")
levels = every[~every["pair"].str.contains(": ", regex=False)]  # named with its study where an earlier one has the pair too
plots.curves(levels.query("models == 'backbones'"), x="layer_x", y="value", hue="pair", facet="similarity",
             low="low", high="high", quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "12_family", "backbones",
    "Committed: similarity of matching layers of the backbones of all pairs at four levels")

# %% [markdown]
# How to read it: more alike is up. A pair whose curve lies near that of continued pretraining was moved no further than
# by further training of any kind.

# %%
plots.curves(levels.query("models == 'embedders'"), x="layer_x", y="value", hue="pair", facet="similarity",
             low="low", high="high", quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "12_family", "embedders",
    "Committed: similarity of matching layers of the embedders of all pairs at four levels")

# %% [markdown]
# How to read it: the same after contrastive training with one recipe. Curves that are higher than in the figure before
# are realignment.

# %% [markdown]
# ## The arm or the order?
#
# Of the variance between embedders, how much comes from arm, order and both?

# %%
apart = {one.name: prose.yardsticks.source_table(one.tables.get("sources"), one.tables.get("variances")) for one in studies}
Markdown("\n\n".join(f"Study `{name}`: {prose.yardsticks.sources_said(places)}" for name, places in apart.items()))

# %%
told = pd.concat(apart.values(), ignore_index=True).query("untold == ''")
plots.table(told.drop(columns=["shown", "untold", "over"]), "Shares of the variance with 95% intervals, where it can be told apart; all "
            "else is in the tables of the studies")

# %% [markdown]
# All of it as one number each:

# %%
similar = results.side_by_side(results.joined_tables(studies, "similarities"), own_similar)
plots.table(prose.yardsticks.similarity_table(similar), "Similarities as one number each, with 95% intervals, committed and of "
            "this run; near identical models the distance from them is what varies; n: tokens, of values that depend on their number")

# %% [markdown]
# How to read it: means over matching layers (inverse row entropy: the last layer), as the claims of the verdict use them.
# A pair appears twice where this run has it too; where n is another, values of a metric that depends on it do not compare.
