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
# # The verdict
#
# Does a reasoning model, turned into an embedding model, score like its base, and are the two alike inside? This page
# answers from the data of this run and goes through the paper's claims one by one. Chapter 14 says what follows for who
# chooses a backbone; chapter 15 holds every rule, table and control behind these words.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose, results
from hrsa.study import load_profile
from hrsa.verdict import claims, controls, evidence, synthesis

study = load_profile(profile)
stated = study.verdict.model_dump()

# %% [markdown]
# ## The answer

# %% tags=["answer"]
pool = evidence.make_pool(study)
per_query, seeds = pool.per_query, pool.seeds
verdicts = synthesis.score_verdicts(per_query, pool.families, study.pairs, seeds, **stated)
checked = controls.control_verdicts(per_query, study.controls, seeds, **stated, pairs=study.pairs, judged=verdicts)
similar = synthesis.make_similarities(study)
Markdown(prose.answer.answer(study, verdicts, checked, similar))

# %% [markdown]
# ## The paper's claims
#
# A claim holds or fails only where intervals are clear of each other or of a threshold stated before the run; otherwise
# it is inconclusive. That something rises is not testable where it is as high as can be told already.

# %%
table = claims.all_claims(claims.score_claims(verdicts), claims.similarity_claims(similar))
Markdown(prose.verdict.headline(table, checked))

# %%
plots.cards(prose.paper.claim_cards(table), prose.paper.MARKS)

# %% [markdown]
# Similarities are means over layers (inverse row entropy: the last layer), with intervals over texts and all seeds. An
# outcome is about the small models of this run: evidence on the paper's mechanism, and not a repetition at its scale.
# Every claim with its rule, by family of tasks too, stands in chapter 15.

# %%
first = study.pairs[0].name
levels = results.make_overview(study, first)
plots.curves(levels, x="layer_x", y="value", hue="models", facet="similarity", low="low", high="high",
             references=["null", "runs", "crossed"], quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "13_verdict", "overview",
    f"Similarity of matching layers at four levels, backbones and embedders, with null and yardsticks, pair {first}")

# %% [markdown]
# How to read it: the first pair at the four levels of HRSA, before and after contrastive training; higher is more
# alike. Where other arm, other order lies on two runs of one recipe, the arms differ no more than two training runs do.
# Bands cover the bootstrap intervals of all seeds. Chapters 5 to 8 show each level in full, for every pair.
#
# ## Controls
#
# Comparisons whose answer is known beforehand, trained, scored and judged like the pairs.

# %%
Markdown(prose.verdict.controls_said(checked))
