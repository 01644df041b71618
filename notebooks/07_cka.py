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
# # Linear CKA: the global shape
#
# CKA asks whether the two models place tokens in the same arrangement, whatever their axes: it is invariant to
# rotation, to scale and to shift. With centred states,
# $\mathrm{CKA}(X, Y) = \lVert Y^\top X \rVert_F^2 / (\lVert X^\top X\rVert_F \lVert Y^\top Y\rVert_F)$.
# Two weaknesses are known. With few tokens for the width it is biased upwards, so the debiased estimate stands
# beside it; and a few outlier dimensions can dominate it.

# %% tags=["parameters"]
profile = "smoke"
pair = "base-vs-rlvr"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.analysis import PairTable
from hrsa.report import plots, prose
from hrsa.similarity import METRIC_FAMILIES, METRICS
from hrsa.study import load_profile, store

study = load_profile(profile)
folder = analysis.make_comparison(study, pair, "cka")

# %% [markdown]
# ## Every layer with every layer
#
# The published figures show blocks of alike layers, and nearly 1 on the diagonal of RLVR pairs. Embedders are
# averaged over seeds.

# %%
heat = store.read_table(folder / PairTable.HEATMAP)
plots.heatmap(heat[heat["metric"] == "cka"], x="layer_x", y="layer_y", value="value", facet="models", quantity="cka",
              xlabel=f"state of {study.pair(pair).a}", ylabel=f"state of {study.pair(pair).b}").publish(
    study.name, f"07_cka/{pair}", "heatmap",
    f"Heat maps of linear CKA of every layer with every layer, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: a cell is the CKA of a state of the one model and a state of the other, from 0 to 1; the last state
# is taken after the final norm. Adjacent states are alike because each block only adds to the one before.

# %%
maxima = store.read_table(folder / PairTable.MAXIMA)
Markdown(prose.similarity.why_maxima() + " " + prose.similarity.above_maximum(heat, maxima, "cka"))

# %% [markdown]
# The same map from the debiased estimate. Where the two maps differ, the number of tokens speaks and not the models.

# %%
plots.heatmap(heat[heat["metric"] == "debiased_cka"], x="layer_x", y="layer_y", value="value", facet="models",
              quantity="debiased_cka", xlabel=f"state of {study.pair(pair).a}",
              ylabel=f"state of {study.pair(pair).b}").publish(
    study.name, f"07_cka/{pair}", "heatmap-debiased",
    f"Heat maps of debiased linear CKA of every layer with every layer, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: as above. A map that is much darker than the biased one warns that there are too few tokens.

# %%
Markdown(prose.similarity.above_maximum(heat, maxima, "debiased_cka"))

# %% [markdown]
# ## The diagonal, with what to hold it against
#
# The band covers the bootstrap intervals of all seeds, beside the null and the ceiling; beside the embedders stand two runs
# of one recipe and other arm, other order.

# %%
curve = analysis.read_over_seeds(folder / PairTable.CURVE)
curve["estimate"] = curve["metric"].map({key: METRICS[key].name for key in METRIC_FAMILIES["cka"]})
beside = analysis.yardsticks(curve)
plots.curves(curve, x="layer_x", y="value", hue="models", facet="estimate", low="low", high="high",
             references=beside, quantity="cka", xlabel="state", ylabel="CKA of matching states").publish(
    study.name, f"07_cka/{pair}", "diagonal",
    f"Biased and debiased CKA at matching layers with interval, null, yardsticks and ceiling, pair {pair}")

# %% [markdown]
# How to read it: the closer to 1, the more alike the arrangement of tokens. The biased null lies above zero by the
# bias alone; the debiased one shows what length and position bring.

# %%
Markdown(prose.yardsticks.sides_said(curve) + " " + prose.yardsticks.tokens_said(curve, METRIC_FAMILIES["cka"]))

# %% [markdown]
# ## Does it survive?

# %%
twins = prose.robustness.read_twins(folder)
Markdown(prose.robustness.why_twins("cka"))

# %%
plots.table(twins.drop(columns="conclusion"), "CKA at the last state, on n tokens, and whether its conclusions survive")

# %% [markdown]
# The conclusions in words, and what turns them:

# %%
Markdown(prose.robustness.twins_said(twins))

# %% [markdown]
# ## Audit: what it takes to mislead
#
# Four changes say nothing about what the models represent. *Shared outlier*: the same noise replaces one dimension of
# both models, 10, 100 or 1,000 times the size of a typical one. *Moved tokens*: in one model, 1% of the tokens move
# together, by 10, 100 or 1,000 typical norms; *moved token*: a single one does. *Duplicated rows*: 1% of the tokens
# occur 10, 100 or 1,000 times (up to four times the sample). The last states of the pair, first seed, at most 1,000
# tokens, with the other levels beside CKA:

# %%
audit = analysis.read_over_seeds(folder / PairTable.AUDIT)
plots.curves(prose.robustness.attack_curves(audit), x="strength", y="value", hue="metric", dash="models", facet="attack",
             quantity="similarity", xlabel="strength of the change (0: as recorded)", ylabel="similarity").publish(
    study.name, f"07_cka/{pair}", "audit",
    f"CKA, debiased CKA, k-NN overlap and correlation of the last states under four attacks, pair {pair}")

# %% [markdown]
# How to read it: a flat line is a metric that the change does not move. CKA weights directions by their variance: a
# shared outlier can lift it to 1, and a single token far away can take it towards 0, whatever all others do. One token
# can change the neighbours of few. The sentences name the attacks that turn a conclusion, with their strengths.

# %%
Markdown(prose.robustness.attacks_said(audit))

# %% [markdown]
# ## What was found
#
# The published study calls RLVR backbones near-isometric to their base, SFT backbones distorted, and embedders
# re-aligned. Here, with permuted rows and rounding named where models do not lie clearly between them:

# %%
last = curve["layer_x"].iloc[-1]
debiased = curve[curve["metric"] == "debiased_cka"]
Markdown(prose.similarity.similarity_sentence(debiased, f"Debiased CKA at the last state ({last})", layer_x=last)
         + " " + prose.similarity.by_layer(debiased))

# %%
biased = curve[curve["metric"] == "cka"]
Markdown(prose.similarity.similarity_sentence(biased, f"Biased CKA at the last state ({last})", layer_x=last)
         + " " + prose.similarity.by_layer(biased))

# %% [markdown]
# Where the variance of the embedders comes from, mean over layers:

# %%
Markdown(prose.yardsticks.layers_said(folder, METRIC_FAMILIES["cka"]))
