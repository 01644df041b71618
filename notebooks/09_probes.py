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
# # Probes: does a readout carry over?
#
# Function, at last. Fit a linear readout on the embeddings of one model, freeze it, and apply it to those of the
# other: does what one model knows lie where the readout looks for it in the other? Embeddings are pooled as
# the model pools, L2-normalised and standardised by each model's own training texts; the readout is softmax regression
# for the topic of a text and ridge regression for a number. *Own* is the score on the model it was fitted on, *cross*
# on the other, *delta* own minus cross. Texts are split 80/10/10, and each set of texts has readouts of its own.

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
folder = analysis.make_comparison(study, pair, "probes")

# %% [markdown] tags=["suite-texts"]
# In general texts (dictionary entries) the topic is a field of meaning and the number the depth of the word in WordNet;
# in mathematics the topic is what is asked for and the number counts the steps of the solution.

# %%
probes = analysis.read_over_seeds(folder / PairTable.PROBES)
probes["where"] = probes["set"] + ", " + probes["models"]
scores = probes[probes["quantity"] != "delta"]

# %% [markdown] tags=["classification"]
# ## Topic of a text
#
# Accuracy, own and cross. Values are means over seeds and over both directions (fitted on the pair's first model, and
# on its second); error bars cover the 95% bootstrap intervals over texts of all of them.

# %% tags=["classification"]
plots.bars(scores[scores["task"] == "classification"], x="split", y="value", hue="quantity", facet="where", low="low",
           high="high", quantity="accuracy", xlabel="split", ylabel="accuracy").publish(
    study.name, f"09_probes/{pair}", "classification",
    f"Accuracy of topic probes on their own and on the other model by split and set of texts, pair {pair}")

# %% [markdown] tags=["classification"]
# How to read it: own on the training texts shows how much the readout can memorise; judge by dev and test. Cross as
# high as own says that the readout found what it needs in the other model, in the same place. Cross above own is
# chance, or a readout that the other model serves better.

# %% [markdown] tags=["regression"]
# ## A number to predict
#
# The share of variance explained, $R^2$: 1 is perfect, 0 as good as the mean of the texts, below 0 worse than that.

# %% tags=["regression"]
plots.bars(scores[scores["task"] == "regression"], x="split", y="value", hue="quantity", facet="where", low="low",
           high="high", xlabel="split", ylabel="R²").publish(
    study.name, f"09_probes/{pair}", "regression",
    f"R squared of ridge probes on their own and on the other model by split and set of texts, pair {pair}")

# %% [markdown] tags=["regression"]
# How to read it: as above. A readout applied to an unrelated model scores far below zero, because its predictions
# vary but do not fit; so a cross score near own is a strong statement, and a very negative one a weak readout.

# %% [markdown]
# ## What the transfer costs
#
# The difference own minus cross, with its paired interval.

# %%
cost = probes[(probes["quantity"] == "delta") & (probes["split"] != "train")].copy()
cost["texts"] = cost["where"] + ", " + cost["split"]
plots.forest(cost, label="texts", value="value", low="low", high="high", hue="models", facet="task",
             xlabel="own score minus cross score").publish(
    study.name, f"09_probes/{pair}", "delta",
    f"Own minus cross score of topic and regression probes on dev and test texts, with intervals, pair {pair}")

# %% [markdown]
# How to read it: right of zero, the readout loses by the change of model. An interval that holds zero shows no loss,
# which is not proof of none.

# %% [markdown] tags=["embedders"]
# A readout loses something between two runs of one recipe as well. Two arms that share the order of the data no more than
# two such runs do are held against them:

# %% tags=["embedders"]
Markdown(prose.yardsticks.readouts_said(cost))

# %% [markdown]
# ## The shape of the states
#
# What a linear readout can find depends on how states fill their space. TwoNN estimates how many dimensions they fill
# locally, from the distances to the two nearest neighbours (Facco et al. 2017). The bands are 95% bootstrap intervals
# over texts, of all seeds together.

# %%
shapes = analysis.make_pair_shapes(study, pair)
shapes["number"] = shapes["shape"].map(analysis.SHAPES)
plots.curves(shapes[shapes["shape"] == "two_nn"], x="layer", y="value", hue="arm", facet="models", low="low",
             high="high", xlabel="state", ylabel="intrinsic dimension (TwoNN)").publish(
    study.name, f"09_probes/{pair}", "dimensions",
    f"Intrinsic dimension (TwoNN) of the token states over depth, backbones and embedders, pair {pair}")

# %% [markdown]
# How to read it: one line per arm, backbones beside embedders. Far fewer dimensions than the states are wide is usual.
#
# The participation ratio says over how many directions the variance is spread: near 1, one direction carries it, as it
# does where a few massive activations are, of which near neighbours see little. Anisotropy is the mean cosine of two tokens (Ethayarajh 2019): 0 for directions spread evenly, 1 for a single one. A
# massive activation is an entry that is many times the median entry of its layer (Sun et al. 2024, who speak of them
# from about 1,000 on).

# %%
ends = shapes[shapes["layer"].isin([shapes["layer"].iloc[0], *shapes["layer"].unique()[-2:]])]
plots.table(ends[["number", "models", "arm", "layer", "value", "low", "high"]].rename(columns={"layer": "state"}),
            "Shape of the first and the last two states, with 95% intervals over texts")

# %% [markdown]
# How to read it: backbones and embedders of one arm differ by contrastive training. It is known to spread directions
# out, which would show as a lower anisotropy of the embedders at the last state.
#
# ## What was found
#
# On texts that no readout was fitted on, from both directions together:

# %%
Markdown("\n\n".join(prose.similarity.transfer(probes, task) for task in probes["task"].unique()))
