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
# # Training an embedder
#
# Every backbone becomes an embedder by the same contrastive recipe: a query is to be nearer to its own passage than to
# the passages of all other queries in the batch and to passages mined because they look right. For each query the loss
# is $-\log \frac{\exp(\cos(q, p^+)/\tau)}{\sum_p \exp(\cos(q, p)/\tau)}$ with temperature $\tau$.
#
# Two arms of a seed may differ in nothing but the weights they start from. Every run is checked against those finished
# before it and stops the study where they differ; chapter 4 holds all of them against each other.

# %% tags=["parameters"]
profile = "smoke"
backbone = "base"
seed = 0

# %%
import pandas as pd
from IPython.display import Markdown

from hrsa.report import plots, prose
from hrsa.study import load_profile
from hrsa.training import train

study, model = load_profile(profile), f"{backbone}-s{seed}"
folder = train.train_embedder(study, model)
curve = train.read_training_curve(folder)

# %% [markdown]
# ## The recipe
#
# The profile scales the published recipe to the machine; the loss, the negatives, the pooling and the attention stay.

# %%
recipe, published = (pd.Series(dict(settings)).astype(str) for settings in (study.recipe, type(study.recipe)()))
plots.table(pd.DataFrame({"this run": recipe, "published": published}).rename_axis("setting").reset_index(),
            "The recipe, and the published one")

# %% [markdown]
# ## How the loss fell
#
# Batches hold one task each, so that negatives are of the same kind as the positive; tasks come in proportion to their
# size.

# %%
chance = prose.training.chance_loss(study.recipe)
plots.curves(curve.assign(model=model, chance=chance), x="step", y="loss", hue="model", references=["chance"], xlabel="step",
             ylabel="loss (nats per query)").publish(study.name, f"03_training/{model}", "loss",
                                                     f"Contrastive loss of {model} over training steps, and that of chance.")

# %%
Markdown(prose.training.loss_sentence(curve, study.recipe))

# %% [markdown]
# How to read it: a model that cannot tell passages apart has the logarithm of the number of passages in the batch, and
# more when it is sure of wrong ones, which a low temperature makes likely at the start. Steps differ because tasks
# differ in difficulty.

# %%
plots.curves(curve.assign(model=model), x="step", y="learning_rate", hue="model", xlabel="step",
             ylabel="learning rate").publish(study.name, f"03_training/{model}", "learning-rate",
                                             f"Learning rate of {model} over training steps.")

# %% [markdown]
# How to read it: a short linear warm-up, then half a cosine down to zero. The curve is the same for every arm; its hash
# is part of the fingerprint in chapter 4.
#
# ## What was left out of the loss
#
# A right answer must not count as a negative. Scores of three kinds are masked: *duplicates*, passages that repeat the
# query's own positive or the query itself; *known positives*, other right answers that the training set gives for the
# same query; and, where the recipe asks for it, *near positives*, passages so much nearer to the query than its own
# that they are likely right too.

# %%
plots.curves(prose.training.masked(curve), x="step", y="scores", hue="reason", xlabel="step",
             ylabel="scores masked in a step").publish(
    study.name, f"03_training/{model}", "masked", f"Scores masked in the loss of {model} over training steps, by reason.")

# %% [markdown]
# How to read it: one line for each reason; a score that falls under several counts for the first. A line of near
# positives that rises would mean that the embedder comes to prefer other passages to the right ones.

# %%
Markdown(prose.training.masked_sentence(curve, study.recipe))

# %% [markdown]
# ## What was cut off
#
# Texts beyond the limit of tokens lose their end, the instruction counted.

# %%
cut = prose.training.cut_counts(curve, study.recipe)
plots.table(cut, f"Texts consumed by {model}, and how many of them were cut at {study.recipe.max_length} tokens; share: "
            "of queries and passages together")

# %% [markdown]
# How to read it: *passages* are positives and hard negatives; a text counts each time it is consumed.

# %%
Markdown(f"A step took {curve['tokens'].mean():,.0f} tokens on average, padding not counted.")

# %% [markdown]
# ## The exported folder
#
# The embedder was written as an ordinary SentenceTransformer folder and loaded again from it. The leak probe changes
# the last token of a text and looks whether the first token's state moves, and changes padding, which must move
# nothing; a failure would have stopped the run.

# %%
export = train.read_export_check(folder)
Markdown(f"Loaded from its folder, {model} attends **{export['attention']}**, as the recipe asks "
         f"({study.recipe.attention}), and no state depends on padding. The embeddings of {export['texts']} texts "
         f"differ from those of the model in memory by at most {export['difference']:.1e}.")

# %% [markdown]
# ## An example
#
# The first training query whose nearest passage, among some hundreds of its task, is not its own, if there is one.

# %%
case = prose.training.nearest(study, model)
plots.table(case, f"A query, its positive, and the passage that {model} puts nearest")

# %% [markdown]
# How to read it: where the nearest passage answers the query as well, the training data knew only one of several right
# answers; where it does not, the embedder was misled by what the texts share.
