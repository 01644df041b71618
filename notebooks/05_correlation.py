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
# # Dimension-wise correlation
#
# The most literal question one can ask of two models: does dimension number $j$ mean the same in both? Let $x_j$ and
# $y_j$ be the values of dimension $j$ over the same $n$ tokens at one layer. Their Pearson correlation $\rho_j$ is 1
# when nothing but scale and offset changed. It falls when the model rotates its space or swaps dimensions, even if
# all distances stay as they were; so it sees changes that later chapters are blind to. The mean over dimensions is
# the summary.

# %% tags=["parameters"]
profile = "smoke"
pair = "base-vs-rlvr"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.analysis import PairTable
from hrsa.report import plots, prose
from hrsa.study import load_profile, store

study = load_profile(profile)
folder = analysis.make_comparison(study, pair, "correlation")

# %% [markdown]
# ## Every layer with every layer
#
# If training changed the models layer by layer, each layer of the one should be most like the same layer of the
# other. Embedders are averaged over seeds.

# %%
heat = store.read_table(folder / PairTable.HEATMAP)
plots.heatmap(heat, x="layer_x", y="layer_y", value="value", facet="models", quantity="correlation",
              xlabel=f"state of {study.pair(pair).a}", ylabel=f"state of {study.pair(pair).b}").publish(
    study.name, f"05_correlation/{pair}", "heatmap",
    f"Heat maps of the mean dimension-wise correlation of every layer with every layer, pair {pair}")

# %% [markdown]
# How to read it: a cell is the mean Pearson correlation over dimensions, from -1 to 1; 0 is the embedding output and
# the last state is the one after the model's final norm. A bright diagonal says that both models use the same
# dimensions for the same things at the same depth; a bright cell far from it, that they do so at another depth.

# %%
maxima = store.read_table(folder / PairTable.MAXIMA)
Markdown(prose.similarity.why_maxima() + " " + prose.similarity.above_maximum(heat, maxima, "correlation"))

# %% [markdown]
# ## Matching layers, with what to hold them against
#
# A similarity means little alone. The band covers the bootstrap intervals of all seeds; untrained backbones are one run
# each. The broken lines are what to hold a value against: the null, the ceiling and, for embedders, two runs of one recipe
# and other arm, other order.

# %%
curve = analysis.read_over_seeds(folder / PairTable.CURVE)
beside = analysis.yardsticks(curve)
plots.curves(curve, x="layer_x", y="value", hue="models", low="low", high="high", references=beside,
             quantity="correlation", xlabel="state", ylabel="mean correlation over dimensions").publish(
    study.name, f"05_correlation/{pair}", "curve",
    f"Mean dimension-wise correlation at matching layers with interval, null, yardsticks and ceiling, pair {pair}")

# %% [markdown]
# How to read it: the higher, the more both models agree on what each dimension stands for. Embedders above backbones
# would be a sign of realignment. A null far from zero says that length and position fix the values of
# dimensions.

# %%
Markdown(prose.yardsticks.sides_said(curve) + " " + prose.yardsticks.tokens_said(curve, ["correlation"]))

# %% [markdown]
# ## Is it all dimensions, or a few?
#
# A mean of .5 may be half of the dimensions kept and half lost, or all of them blurred. The distribution at the last
# state tells these apart.

# %%
dimensions = store.read_table(folder / PairTable.DIMENSIONS)
last = dimensions["layer_x"].iloc[-1]
plots.histogram(dimensions[dimensions["layer_x"] == last], value="value", hue="models", quantity="correlation",
                xlabel=f"correlation of one dimension, state {last}").publish(
    study.name, f"05_correlation/{pair}", "histogram",
    f"Histogram over dimensions of their correlation at the last state, pair {pair}")

# %% [markdown]
# How to read it: one count per dimension (and seed), heights are shares. Two separate heaps say
# that training rewrote some dimensions and left others alone.

# %% [markdown]
# ## Does it survive?

# %%
twins = prose.robustness.read_twins(folder)
Markdown(prose.robustness.why_twins("correlation"))

# %%
plots.table(twins.drop(columns="conclusion"), "Mean correlation at the last state, on n tokens, and whether its "
            "conclusions survive")

# %% [markdown]
# The conclusions in words, and what turns them:

# %%
Markdown(prose.robustness.twins_said(twins))

# %% [markdown]
# ## What was found
#
# The published study describes RLVR backbones as preserved at this level, SFT backbones as destructively mixed, and
# embedders as re-aligned. Here, with permuted rows and rounding named where models do not lie clearly between them:

# %%
Markdown(prose.similarity.similarity_sentence(curve, f"Mean correlation at the last state ({last})", layer_x=last)
         + " " + prose.similarity.by_layer(curve))

# %% [markdown]
# Where the variance of the embedders comes from, mean over layers:

# %%
Markdown(prose.yardsticks.layers_said(folder, ["correlation"]))

# %% [markdown]
# And what was left out:

# %%
undefined = int(dimensions["value"].isna().sum())
Markdown(f"Dimensions that are constant in a model have no correlation and are left out: {undefined} of "
         f"{len(dimensions)} values.")
