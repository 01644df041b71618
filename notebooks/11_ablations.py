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
# # Ablations
#
# The recipe has parts that could, by themselves, pull two models together or hold them apart: the attention mask, the
# temperature, the number of negatives, the length of training. Each ablation changes one of them and trains both arms
# of a pair again. If the difference between arms, or the likeness of their states, hangs on such a part, it shows here.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.evaluation import evaluate
from hrsa.report import plots, prose
from hrsa.study import load_profile, store
from hrsa.verdict import differences

study = load_profile(profile)
conditions = [analysis.RECIPE, *(a.name for a in study.ablations)]

# %% [markdown]
# ## What was changed
#
# Everything that is not named stays as in the recipe: data, batches, seeds, steps.

# %%
plots.table(analysis.changed_settings(study), f"Ablations of profile {study.name}, beside the recipe's values", decimals=4)

# %% [markdown]
# ## Scores under each condition
#
# Ablations are run with fewer seeds than the recipe, and the recipe is shown with the same ones.

# %%
arms = {name for a in study.ablations for name in a.backbones}
seeds = {seed for a in study.ablations for seed in a.seeds}
models = [m.id for m in study.models() if m.backbone in arms and m.seed in seeds]
scores, per_query = evaluate.make_scores(study, models)
plots.table(prose.scores.score_table(study, scores), f"Scores x 100 by condition and arm, seeds {sorted(seeds)}")

# %%
means = differences.overall_scores(study, scores)
plots.bars(means, x="condition", y="value", hue="arm", low="low", high="high", quantity="score",
           xlabel="condition", ylabel="mean score over tasks").publish(
    study.name, "11_ablations", "scores", "Bars of the mean score over tasks of each arm under each condition")

# %% [markdown]
# How to read it: groups are conditions, bars within a group are arms; whiskers, where there are several seeds, are the
# lowest and the highest. A change of the recipe that matters moves a whole group. A change that matters *for the
# question of the study* moves the bars of one group apart.

# %% [markdown]
# ## Does the difference between arms change?

# %%
found = differences.all_differences(study, per_query, conditions, seeds=sorted(seeds))
overall = found[found["task"] == differences.ALL_TASKS]
plots.forest(overall, label="condition", value="difference", low="low", high="high", margin=study.verdict.margin,
             facet="pair", xlabel="mean score of b minus mean score of a").publish(
    study.name, "11_ablations", "differences",
    "Forest plot of the mean difference between arms under the recipe and under each ablation, with the margin band")

# %% [markdown]
# How to read it: one row per condition, the recipe first. With one seed an interval covers the draw of queries and
# tasks and not that of training runs. No verdict is given on such rows, however narrow they are: that on the recipe, with
# all its seeds, is in chapter 13.

# %%
Markdown("\n".join(f"- {prose.scores.difference_sentence(row)}" for _, row in overall.iterrows())
         + "\n\n" + prose.scores.against_recipe(overall))

# %% [markdown]
# ## Does the likeness of the arms change?
#
# Contrastive training is said to pull the two arms together again in global geometry (CKA) while local geometry (k-NN
# overlap) stays reorganised. Both are measured on the last states of every condition, and of the backbones before
# training.

# %%
pairs = [pair.name for pair in study.pairs if analysis.ablations_of(study, pair.name)]
folders = [analysis.make_likeness(study, pair) for pair in pairs]
likeness = differences.likeness([store.read_table(folder / analysis.LIKENESS, analysis.LIKENESS_COLUMNS) for folder in folders])

# %%
plots.bars(likeness, x="condition", y="value", hue="measure", facet="pair", low="low", high="high",
           quantity="similarity", xlabel="condition", ylabel="similarity of the two arms").publish(
    study.name, "11_ablations", "likeness",
    "Bars of CKA and k-NN overlap between the two arms at the last layer, untrained, under the recipe and ablations")

# %% [markdown]
# How to read it: 1 is identical up to rotation and scale, whiskers are intervals over texts. *Untrained* is where the
# arms stood before contrastive training. Realignment is a rise from there; a condition that realigns less than the
# recipe points to the part of it that does the work.

# %%
Markdown(prose.scores.likeness_sentences(likeness))
