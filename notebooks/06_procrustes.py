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
# # Procrustes: how far the axes have drifted
#
# Suppose one model is the other seen from another angle. Then an orthogonal map $O$ carries its states $X$ onto $Y$:
# $O^* = \arg\min_O \lVert XO - Y \rVert_F$ on centred states. Three numbers describe the fit. The *inverse row
# entropy* of $O^*$ is 1 when every dimension goes to one dimension (a signed permutation) and 0 when each is spread
# over all: it measures drift of the basis. The *residual ratio* $\lVert XO^* - Y\rVert^2 / \lVert Y\rVert^2$ is what
# no rotation can explain, and the *cosine* is the agreement of a token's two states after alignment.

# %% tags=["parameters"]
profile = "smoke"
pair = "base-vs-rlvr"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.analysis import PairTable
from hrsa.report import plots, prose
from hrsa.similarity import METRIC_FAMILIES
from hrsa.study import load_profile, store

study = load_profile(profile)
folder = analysis.make_comparison(study, pair, "procrustes")

# %% [markdown]
# ## Drift of the basis over depth
#
# Each value stands beside the band of its bootstrap intervals (a new fit for each resample), the null, the ceiling and,
# for embedders, two runs of one recipe and other arm, other order.

# %%
curve = analysis.read_over_seeds(folder / PairTable.CURVE)
whole = curve[curve["set"] == "all"]
beside = analysis.yardsticks(whole)
plots.curves(whole[whole["metric"] == "inverse_row_entropy"], x="layer_x", y="value", hue="models", low="low",
             high="high", references=beside, quantity="inverse_row_entropy", xlabel="state",
             ylabel="inverse row entropy of the map").publish(
    study.name, f"06_procrustes/{pair}", "entropy",
    f"Inverse row entropy of the Procrustes map at matching layers, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: 1 is an unchanged basis, lower is drift. The map of unrelated states is not spread evenly either, so
# compare with the null and not with 0. Changes add up from block to block, so that curves mostly
# fall with depth.

# %%
Markdown(prose.yardsticks.sides_said(whole) + " " + prose.yardsticks.tokens_said(whole, METRIC_FAMILIES["procrustes"]))

# %% [markdown]
# ## What no rotation explains
#
# A rotated copy would leave nothing over. What is left is a change of shape.

# %%
plots.curves(whole[whole["metric"] == "residual_ratio"], x="layer_x", y="value", hue="models", low="low", high="high",
             references=beside, quantity="residual_ratio", xlabel="state", ylabel="residual ratio").publish(
    study.name, f"06_procrustes/{pair}", "residual",
    f"Residual ratio after Procrustes alignment at matching layers, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: 0 is a perfect fit; two unrelated arrays of equal scale leave about 2, less when their large
# directions can be matched, as the null shows. The residual sees scale: a model whose states merely grew has one too.

# %%
plots.curves(whole[whole["metric"] == "mean_cosine"], x="layer_x", y="value", hue="models", low="low", high="high",
             references=beside, quantity="mean_cosine", xlabel="state", ylabel="mean cosine after alignment").publish(
    study.name, f"06_procrustes/{pair}", "cosine",
    f"Mean cosine of a token's two states after Procrustes alignment at matching layers, pair {pair}")

# %% [markdown]
# How to read it: 1 means that every token points the same way in both models once the axes are aligned. It does not
# see scale, so it may stay high where the residual is large.

# %% [markdown]
# ## The map itself
#
# At the last state, the size of the entries of $O^*$. An unchanged basis is a diagonal; mixing is haze. Embedders are
# those of the first seed, and wide models are shown by the largest entry of each block of dimensions.

# %%
cells = store.read_table(folder / PairTable.MAP).rename(columns={"value": "size of the entry"})
plots.heatmap(cells, x="column", y="row", value="size of the entry", facet="models",
              xlabel=f"dimension of {study.pair(pair).b}", ylabel=f"dimension of {study.pair(pair).a}").publish(
    study.name, f"06_procrustes/{pair}", "map",
    f"Heat maps of the absolute Procrustes map at the last state, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: a bright cell in row $i$ and column $j$ says that dimension $i$ of the first model became dimension
# $j$ of the second. Bright cells off the diagonal are swaps of dimensions, which no step of training makes likely.

# %% [markdown] tags=["suite-texts"]
# ## Mathematics against general text
#
# The published study fits the map on worked mathematics and on general prompts separately, and finds more drift on
# mathematics, above all in backbones. The same split here, with equal numbers of tokens: as many of each set as the
# smallest has, and as many of all sets *mixed*. Embedders are those of the first seed.

# %% tags=["suite-texts"]
sets = curve[(curve["metric"] == "inverse_row_entropy") & (curve["set"] != "all")]
plots.curves(sets, x="layer_x", y="value", hue="set", facet="models", low="low", high="high", quantity="inverse_row_entropy",
             xlabel="state", ylabel="inverse row entropy of the map").publish(
    study.name, f"06_procrustes/{pair}", "sets",
    f"Inverse row entropy of the map fitted on equal numbers of tokens of mathematics, of general text and of both, pair {pair}")

# %% [markdown] tags=["suite-texts"]
# How to read it: compare the curves of this figure with each other and not with the first one, which rests on more
# tokens. *Mixed* tells what the smaller number alone does. The table holds published values of other, larger models
# (published: chain-of-thought and MMLU-Pro texts, last layer): a reference for the size of such differences, not a
# target.

# %% tags=["suite-texts"]
Markdown(prose.yardsticks.tokens_said(sets, ["inverse_row_entropy"]))

# %% [markdown] tags=["suite-texts"]
# The published values:

# %% tags=["suite-texts"]
plots.table(prose.paper.entropy_table(), "Published inverse row entropy at the last layer", decimals=4)

# %% [markdown]
# ## Does it survive?

# %%
twins = prose.robustness.read_twins(folder)
Markdown(prose.robustness.why_twins("procrustes"))

# %%
plots.table(twins.drop(columns="conclusion"), "Procrustes at the last state, on n tokens, and whether its conclusions "
            "survive")

# %% [markdown]
# The conclusions in words, and what turns them:

# %%
Markdown(prose.robustness.twins_said(twins))

# %% [markdown]
# ## What was found
#
# From the intervals above; permuted rows and rounding are named where models do not lie clearly between them:

# %%
last = whole["layer_x"].iloc[-1]
entropy = whole[whole["metric"] == "inverse_row_entropy"]
Markdown(prose.similarity.similarity_sentence(entropy, f"Inverse row entropy at the last state ({last})", layer_x=last)
         + " " + prose.similarity.by_layer(entropy))

# %%
residual = whole[whole["metric"] == "residual_ratio"]
Markdown(prose.similarity.similarity_sentence(residual, f"Residual ratio at the last state ({last})", layer_x=last)
         + " " + prose.similarity.by_layer(residual))

# %% [markdown]
# Where the variance of the embedders comes from, mean over layers:

# %%
Markdown(prose.yardsticks.layers_said(folder, METRIC_FAMILIES["procrustes"]))

# %% [markdown] tags=["suite-texts"]
# By set of texts:

# %% tags=["suite-texts"]
Markdown(prose.similarity.between_sets(sets[sets["layer_x"] == last], "maths", "general"))
