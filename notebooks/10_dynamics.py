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
# # Training dynamics: do the arms meet?
#
# Here every similarity is taken at the kept checkpoints of contrastive training, beside two runs of one arm and beside
# an arm and itself before training. Step 0 is the pair's backbones as they came, with causal attention; from the first
# checkpoint on, the models attend as the recipe says. The published study reports that realignment happens within the
# first 200 or so of 782 steps and then holds, while neighbour overlap keeps falling.

# %% tags=["parameters"]
profile = "smoke"

# %%
import pandas as pd
from IPython.display import Markdown

from hrsa import analysis
from hrsa.report import plots, prose, results
from hrsa.similarity import METRICS, shown_k
from hrsa.study import load_profile, store

study = load_profile(profile)

# %% [markdown] tags=["committed-film"]
# ## Ten steps of training
#
# All that is compared was trained with the recipe of the default study, at ten checkpoints, denser early. A run that keeps
# some itself (`recipe.checkpoints`) shows them below.

# %% tags=["committed-film"]
kept, kept_record = results.read_committed("dynamics")
Markdown(prose.scores.committed_film(kept_record))

# %% tags=["committed-film"]
is_map = kept["layers"] == "map"
maps = kept[is_map & ((kept["models"] == analysis.BOTH_ARMS) | (kept["pair"] == kept["pair"].iloc[0]))]
maps = maps.drop_duplicates(["models", "a", "b", "step", "layer_x", "layer_y"])
of_arms, of_itself = ((maps["models"] == models) for models in (analysis.BOTH_ARMS, analysis.ITSELF))
plots.film(maps[of_arms], x="layer_x", y="layer_y", value="value", over="step", facet="pair", quantity="debiased_cka",
           xlabel="layer of the arm", ylabel="layer of base", label="training step").publish(
    study.name, "10_dynamics", "film", "Debiased CKA of every layer of base with every layer of the other arm, step by step")

# %% [markdown] tags=["committed-film"]
# How to read it: the slider moves through training (arrow keys too). The last column and the top row are the normed
# final states, where the loss acts; the first are the embeddings of tokens.

# %% tags=["committed-film"]
selves = maps[of_itself & maps["a"].isin(["base", "rlvr"])].assign(arm=maps["a"] + ", before and now")
plots.film(selves, x="layer_x", y="layer_y", value="value", over="step", facet="arm", quantity="debiased_cka",
           xlabel="layer of the arm now", ylabel="layer of the arm before", label="training step").publish(
    study.name, "10_dynamics", "film-itself", "Debiased CKA of every layer of an arm before training with every layer now, step by step")

# %% [markdown] tags=["committed-film"]
# How to read it: what leaves the diagonal here was moved by contrastive training itself, of an arm held against no other.

# %% tags=["committed-film"]
moments = analysis.over_seeds(kept[~is_map & (kept["layers"] == "last") & (kept["set"] == "all")].drop(
    columns=["layer_x", "layer_y"]))
plots.curves(moments[moments["metric"] == "debiased_cka"], x="step", y="value", hue="models", facet="pair", low="low", high="high",
             quantity="similarity", xlabel="training step", ylabel=f"{METRICS['debiased_cka'].name} of the last states").publish(
    study.name, "10_dynamics", "film-global", "Debiased CKA over ten steps of training: the two arms, two runs of one arm, an arm and itself before")

# %% [markdown] tags=["committed-film"]
# How to read it: arms on two orders of the data that are as alike as two runs of one arm have met, as far as one can tell.
# The line of an arm and itself before shows what contrastive training does to any model.

# %% tags=["committed-film"]
neighbours = moments[(moments["metric"] == "knn") & (moments["k"] == shown_k(moments["k"].dropna()))]
plots.curves(neighbours, x="step", y="value", hue="models", facet="pair", low="low", high="high", quantity="knn",
             xlabel="training step", ylabel="mean overlap of the last states").publish(
    study.name, "10_dynamics", "film-local", "Mean neighbour overlap over ten steps of training: the two arms, two runs of one arm, an arm and itself before")

# %% [markdown] tags=["committed-film"]
# How to read it: as above, for the neighbours of each token.
#
# When do the arms meet, do they get closer than two runs of one arm, and does local overlap only fall? Each sentence holds
# intervals that cover those of both seeds against each other, at one step at a time.

# %% tags=["committed-film"]
compared = pd.concat([moments[moments["metric"].isin(["debiased_cka", "correlation", "inverse_row_entropy"])], neighbours])
Markdown("\n".join(f"- {pair}, " + prose.similarity.meeting(part, METRICS[metric].name)
                   for (pair, metric), part in compared.groupby(["pair", "metric"], sort=False)) + "\n" + "\n".join(
    f"- {pair}, " + prose.similarity.only_falls(part, METRICS["knn"].name) for pair, part in neighbours.groupby("pair", sort=False)))

# %% [markdown] tags=["committed-film", "own-steps"]
# ## This run

# %% tags=["own-steps"]
tables = {pair.name: store.read_table(analysis.make_dynamics(study, pair.name) / analysis.DYNAMICS) for pair in study.pairs}
every = analysis.over_seeds(pd.concat(tables, names=["pair"]).reset_index(level="pair"))
steps = every[every["models"] == analysis.BOTH_ARMS]

# %% [markdown] tags=["own-steps"]
# ## Axes and shape
#
# The last (normed) state of both models, with bands from the bootstrap over texts that cover those of both seeds.

# %% tags=["own-steps"]
final = steps[steps["layers"] == "last"]
last = final[final["set"] == "all"]
names = {key: METRICS[key].name for key in ("correlation", "inverse_row_entropy", "debiased_cka", "mean_cosine")}
shape = last[last["metric"].isin(names)].assign(similarity=last["metric"].map(names))
plots.curves(shape, x="step", y="value", hue="pair", facet="similarity", low="low", high="high", quantity="similarity",
             xlabel="training step", ylabel="similarity of the last states").publish(
    study.name, "10_dynamics", "shape",
    "Correlation, inverse row entropy, debiased CKA and cosine of the last states over training steps, by pair")

# %% [markdown] tags=["own-steps"]
# How to read it: higher is more alike. A line that rises from step 0 is realignment; one that falls says that the same
# recipe and data carried the two models apart. A jump at the first checkpoint holds the change of attention too.

# %% [markdown] tags=["own-steps"]
# ## Neighbours
#
# The published claim is that local neighbourhoods keep drifting apart.

# %% tags=["own-steps"]
overlap = last[last["metric"] == "knn"].assign(neighbours="k = " + last["k"].astype(str))
plots.curves(overlap, x="step", y="value", hue="pair", facet="neighbours", low="low", high="high", quantity="knn",
             xlabel="training step", ylabel="mean overlap of the last states").publish(
    study.name, "10_dynamics", "overlap", "Mean neighbour overlap of the last states over training steps, by pair and k")

# %% [markdown] tags=["own-steps"]
# How to read it: as above, for the $k$ nearest neighbours of each token. Lines that rise would contradict the claim.

# %% [markdown] tags=["own-steps"]
# ## Closer than two runs of one arm?
#
# The two arms of a seed see the same batches, which makes them alike by itself. So they are compared on two orders of
# the data, beside two runs of one arm on two orders.

# %% tags=["own-steps"]
beside = every[(every["layers"] == "last") & (every["set"] == "all")]
cka = beside[beside["metric"] == "debiased_cka"]
plots.curves(cka, x="step", y="value", hue="models", facet="pair", low="low", high="high", quantity="similarity",
             xlabel="training step", ylabel=f"{METRICS['debiased_cka'].name} of the last states").publish(
    study.name, "10_dynamics", "beside-global", "Debiased CKA over training steps: the two arms, two runs of one arm, an arm and itself before")

# %% [markdown] tags=["own-steps"]
# How to read it: where the line of the arms on two orders lies in the band of two runs of one arm, the arms differ no
# more than the order of the data makes them. A line of an arm and itself that falls far below says that training moved
# each arm further than the arms are apart.

# %% tags=["own-steps"]
local = beside[(beside["metric"] == "knn") & (beside["k"] == shown_k(beside["k"].dropna()))]
plots.curves(local, x="step", y="value", hue="models", facet="pair", low="low", high="high", quantity="knn",
             xlabel="training step", ylabel="mean overlap of the last states").publish(
    study.name, "10_dynamics", "beside-local", "Mean neighbour overlap over training steps: the two arms, two runs of one arm, an arm and itself before")

# %% [markdown] tags=["own-steps"]
# How to read it: as above, for the neighbours of each token. A fall that an arm shows against itself as well is not
# special to RLVR.

# %% tags=["own-steps"]
compared = beside[beside["metric"].isin(["debiased_cka", "mean_cosine"])]
groups = pd.concat([compared, local]).groupby(["pair", "metric"], sort=False)
Markdown("\n".join(f"- {pair}, " + prose.similarity.beside_runs(part, METRICS[metric].name) for (pair, metric), part in groups))

# %% [markdown] tags=["own-steps"]
# ## What no rotation explains
#
# The residual ratio is a distance: lower is more alike.

# %% tags=["own-steps"]
plots.curves(last[last["metric"] == "residual_ratio"], x="step", y="value", hue="pair", low="low", high="high",
             xlabel="training step", ylabel="residual ratio of the last states").publish(
    study.name, "10_dynamics", "residual", "Residual ratio after Procrustes alignment over training steps, by pair")

# %% [markdown] tags=["own-steps"]
# How to read it: 0 is a perfect fit after rotation. It grows when the two models' states take other shapes or sizes.

# %% [markdown] tags=["own-steps"]
# ## Readouts
#
# Scores of probes carried over from one model to the other, on test texts, mean of both directions.

# %% tags=["own-steps"]
carried = final[final["metric"].isin(["classification", "regression"])]
carried = carried.assign(task=carried["metric"] + ", " + carried["set"] + " texts")
plots.curves(carried, x="step", y="value", hue="pair", facet="task", low="low", high="high",
             xlabel="training step", ylabel="cross score (accuracy, R²)").publish(
    study.name, "10_dynamics", "probes", "Cross-model probe scores on test texts over training steps, by pair and task")

# %% [markdown] tags=["own-steps"]
# How to read it: accuracy for topics, $R^2$ for the number. A rise may come from better embeddings or from closer
# models; chapter 09 sets cross scores beside own scores.

# %% [markdown] tags=["own-steps"]
# ## All layers
#
# The last state is where the loss acts. The mean over all matching layers shows whether the change reaches deeper.

# %% tags=["own-steps"]
deep = steps[(steps["layers"] == "mean") & (steps["set"] == "all") & steps["metric"].isin(names)]
deep = deep.assign(similarity=deep["metric"].map(names))
plots.curves(deep, x="step", y="value", hue="pair", facet="similarity", quantity="similarity",
             xlabel="training step", ylabel="mean similarity over layers").publish(
    study.name, "10_dynamics", "layers", "Mean over layers of four similarities over training steps, by pair")

# %% [markdown] tags=["own-steps"]
# How to read it: as the first figure, without bands. Short training mostly moves late layers, so that
# changes are smaller here than at the last state.

# %% [markdown] tags=["own-steps"]
# ## What was found
#
# Each line compares the last step with step 0, and names the step since which the difference holds.

# %% tags=["own-steps"]
told = [*names, "residual_ratio", "knn"]
groups = last[last["metric"].isin(told)].groupby(["pair", "metric", "k"], sort=False, dropna=False)
lines = [f"{pair}: " + prose.similarity.over_training(part, METRICS[metric].name + (f" (k = {k})" if metric == "knn" else ""))
         for (pair, metric, k), part in groups]
Markdown("\n".join(f"- {line}" for line in lines))
