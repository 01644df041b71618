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
# # Which backbone to choose
#
# For who builds a retrieval system and has a base model and a reasoning model made from it: which of the two to train,
# how sure that is, and what it would cost to be surer. Each word follows from the verdict by a rule.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.evaluation import evaluate
from hrsa.report import plots, prose
from hrsa.study import load_profile
from hrsa.verdict import differences, evidence, paired_scores, synthesis

study = load_profile(profile)
stated = study.verdict.model_dump()
pool = evidence.make_pool(study)
verdicts = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds, **stated)

# %% [markdown]
# ## The advice

# %%
Markdown(prose.answer.choice(study, verdicts))

# %%
Markdown(prose.answer.not_covered(study, verdicts))

# %% [markdown]
# ## The scores behind it
#
# Means over seeds, x 100, beside those of BM25, of the untrained backbones and of chance. A click on a heading sorts.

# %%
models = [model.id for model in study.models() if model.ablation is None]
scores, _ = evaluate.make_scores(study, [*(["bm25"] if study.suite.tasks else []), *models])
gained = differences.training_gains(study, pool.per_query, pool.families, pool.seeds, stated["alpha"], stated["resamples"])
plots.table(prose.answer.choice_table(study, scores, gained), "Scores by family of tasks", decimals=1)

# %% [markdown]
# How to read it: compare the two rows of a pair with the rows of the untrained models and with BM25. A difference between
# two trained rows that is small beside what training added is no reason to choose.
#
# ## To be surer
#
# Simulated with the variation that this run measured: what it takes to prove that two arms score the same within the
# margin.

# %%
plan = synthesis.plans(pool.per_query, study.pairs, pool.seeds, stated["margin"], stated["alpha"],
                       ([2, 3, 5, 8, 12], [50, 200, 800]), paired_scores.hours_per_seed(study))
Markdown(prose.answer.cost_of_more(plan, verdicts, stated["margin"]))

# %% [markdown]
# ## To use one
#
# Every embedder is an ordinary folder of sentence-transformers. A query carries an instruction, a passage none.

# %%
folders = prose.answer.embedder_folders(study)
Markdown(prose.answer.loading(folders["folder"].iloc[0]))

# %%
plots.table(folders, "Folders of all embedders, in the repository that the run was made in")
