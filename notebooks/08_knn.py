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
# # k-NN overlap: the local neighbourhoods
#
# The global shape may hold while neighbours change places, and retrieval reads neighbours. For each token, take its
# $k$ nearest other tokens by cosine in the one model and in the other; the overlap is the Jaccard index of the two
# sets, and its mean over tokens is shown here. It is invariant to rotation and scale, not to shift.

# %% tags=["parameters"]
profile = "smoke"
pair = "base-vs-rlvr"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.analysis import PairTable
from hrsa.report import plots, prose
from hrsa.study import load_profile

study = load_profile(profile)
folder = analysis.make_comparison(study, pair, "knn")

# %% [markdown]
# ## Overlap over depth
#
# One panel per $k$. The band covers the bootstrap intervals of all seeds, beside the null and the ceiling; beside the
# embedders stand two runs of one recipe and other arm, other order.

# %%
curve = analysis.read_over_seeds(folder / PairTable.CURVE)
curve["neighbours"] = "k = " + curve["k"].astype(str)
beside = analysis.yardsticks(curve)
plots.curves(curve, x="layer_x", y="value", hue="models", facet="neighbours", low="low", high="high",
             references=beside, quantity="knn", xlabel="state", ylabel="mean overlap").publish(
    study.name, f"08_knn/{pair}", "overlap",
    f"Mean k-nearest-neighbour overlap at matching layers with interval, null, yardsticks and ceiling, pair {pair}")

# %% [markdown]
# How to read it: 1 means the same neighbours, and unrelated models overlap by about $k / 2n$. At state 0 equal tokens
# have equal states and are each other's neighbours in every model; the tie rule lifts the overlap there.

# %%
Markdown(prose.yardsticks.sides_said(curve) + " " + prose.yardsticks.tokens_said(curve, ["knn"]))

# %% [markdown]
# ## Which neighbourhoods changed
#
# The tokens and the texts that keep the fewest of their neighbours at one state, backbones and embedders of the first
# seed. Menus choose the state, and so does a click on a point of the figure above.

# %%
changed = analysis.make_changed_neighbours(study, pair)
plots.choices(prose.similarity.changed_blocks(changed, study.pair(pair), study.analysis.unit), f"08_knn/{pair}/overlap")

# %% [markdown]
# How to read it: «» are around the token itself; the last two columns say which of its nearest neighbours are so in one
# model alone. These are the extremes and were chosen as such: they show what changed, and not how much. Many tokens can
# share no neighbour at a state where the mean overlap is high.

# %% [markdown]
# ## Ties
#
# The share of tokens whose neighbours the tie rule decided, in either model:

# %%
ties = analysis.read_over_seeds(folder / PairTable.TIED)
ties = ties.pivot_table(index=["models", "layer_x"], columns="k", values="value", sort=False).reset_index()
plots.table(ties.rename(columns={"layer_x": "state", **{k: f"k = {k}" for k in ties.columns if k not in (
    "models", "layer_x")}}), "Share of tokens whose set of neighbours the tie rule decided")

# %% [markdown]
# How to read it: 0 means that distances alone decide. Where the share is high, as at state 0, part of the overlap is
# the rule's and says nothing about the models.

# %% [markdown]
# ## Mean over depth
#
# The published study gives the mean over layers: published for the prolonged RLVR pair are .455 / .484 / .577 at
# $k$ = 5 / 10 / 50 before contrastive training and .451 / .474 / .531 after it. The table holds the published rows
# and this run's, which comes from far smaller models: compare directions, not sizes.

# %%
plots.table(prose.paper.overlap_table(curve, pair), "Mean overlap over layers")

# %% [markdown]
# How to read it: one row per pair and kind of model. The published claim is that contrastive training does not bring
# neighbourhoods back: the embedders' row is not above the backbones' row.

# %% [markdown]
# ## Measures on request
#
# A profile may name more measures in `analysis.more`. Mutual $k$-NN is the share of neighbours that both models agree
# on, and CKNNA weighs each by its nearness (Huh et al. 2024); RSA correlates the ranks of all dissimilarities of two
# tokens (Kriegeskorte et al. 2008); SVCCA is the mean canonical correlation of the directions that hold 99% of the
# variance (Raghu et al. 2017). At the last state, with the same intervals, null and yardsticks:

# %%
more = study.analysis.more and analysis.read_over_seeds(
    analysis.make_comparison(study, pair, "more") / PairTable.CURVE)
plots.table(more[more["layer_x"] == more["layer_x"].iloc[-1]].drop(columns=["layer_x", "layer_y", "set"]),
            "Measures on request, last state") if len(more) else Markdown("This profile asks for none.")

# %% [markdown]
# How to read it: all are 1 for equal models. RSA looks at all pairs of tokens, the first two at near ones, and SVCCA at
# what a linear map can find: where they part, it matters which pairs are looked at.
#
# ## Does it survive?

# %%
twins = prose.robustness.read_twins(folder)
Markdown(prose.robustness.why_twins("knn"))

# %%
plots.table(twins.drop(columns="conclusion"), "k-NN overlap at the last state, on n tokens, and whether its conclusions "
            "survive")

# %% [markdown]
# The conclusions in words, and what turns them:

# %%
Markdown(prose.robustness.twins_said(twins))

# %% [markdown]
# ## What was found
#
# For each $k$, at the last state; permuted rows and rounding are named where models do not lie clearly between them:

# %%
last = curve["layer_x"].iloc[-1]
lines = [prose.similarity.similarity_sentence(curve, f"Overlap at k = {k}, last state ({last})", layer_x=last, k=k) + " "
         + prose.similarity.by_layer(curve, k=k) for k in sorted(curve["k"].unique())]
Markdown("\n".join(f"- {line}" for line in lines))

# %% [markdown]
# Where the variance of the embedders comes from, mean over layers:

# %%
Markdown(prose.yardsticks.layers_said(folder, ["knn"]))
