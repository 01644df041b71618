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
# # Explore a finished run
#
# The chapters show what was decided to show before any run. Here everything that a run left can be looked at: any pair,
# seed, stage of training, metric and layer, down to the words behind a number. Only what is finished is read, and nothing
# is trained.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import explore

Markdown(explore.runs_said())

# %% [markdown]
# The list has the finished runs with their pairs. The menus of the views below are one set: a profile, pair or seed that is
# chosen in one view is chosen in all.
#
# ## Every layer with every layer

# %%
view = explore.Explorer(profile)
view.map

# %% [markdown]
# How to read it: a cell compares a state of the one model with a state of the other; embedders are averaged over seeds. A
# metric has its plain and its debiased form where there are two. *Above the null* leaves a cell empty that does not exceed
# the largest cell of maps whose rows were permuted: no more than chance is shown there.
#
# ## Matching layers, seed by seed

# %%
view.layers

# %% [markdown]
# How to read it: the same yardsticks as in the chapters, for one seed. A difference that one seed shows and the others do
# not is that run's.
#
# ## The words behind a cell
#
# A stage is the backbones, a kept checkpoint of training, or the embedders. A layer of each model is a cell of the map.

# %%
view.cell

# %% [markdown]
# How to read it: the tokens (or words) and texts that keep the fewest of their nearest neighbours from the one model to the
# other; «» are around the token itself. They were chosen for being extreme, so they show what changed and not how much: the
# mean over all tokens stands above them.
