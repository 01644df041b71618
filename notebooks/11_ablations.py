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
# Each ablation changes one part of the recipe and trains both arms of a pair again. If the difference between arms, or
# the likeness of their states, hangs on such a part, it shows here.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa import analysis
from hrsa.evaluation import evaluate
from hrsa.report import plots, prose, results
from hrsa.study import load_profile
from hrsa.verdict import differences

study = load_profile(profile)

# %% [markdown] tags=["committed-ablations"]
# ## One part of the recipe at a time
#
# Base and RLVR are trained again under each condition, on few steps and small tasks; `make ablations` makes this table.
# Below the ablations stand controls: arms trained for unequal times, a random start as the floor, and two runs of one
# treatment.

# %% tags=["committed-ablations"]
kept, kept_record = results.read_committed("ablations")
Markdown(prose.scores.committed_ablations(kept_record))

# %% tags=["committed-ablations"]
plots.table(prose.scores.ablation_scores(kept), "Committed: scores x 100 of both arms under each condition, and what it changes",
            decimals={"a": 1, "b": 1, "seconds": 0})

# %% [markdown] tags=["committed-ablations"]
# How to read it: *b − a* is the question of the study, asked under another condition; *both − recipe* is what the part
# is worth to both arms together. With one seed an interval covers the draw of queries and tasks and not that of
# training runs, and no verdict is given. A condition that changes the number of blocks is scored against backbones of
# the recipe's number where a verdict asks whether training helped.

# %% tags=["committed-ablations"]
shown = kept.assign(condition=prose.scores.condition_names(kept))
plots.forest(shown, label="condition", value="difference", low="low", high="high",
             margin=kept_record["profile"]["verdict"]["margin"], xlabel="mean score of b minus mean score of a").publish(
    study.name, "11_ablations", "committed-differences", "Forest plot of the committed differences between arms by condition")

# %% [markdown] tags=["committed-ablations"]
# How to read it: the band is the margin. A row far from the recipe's names a part that the answer hangs on.
#
# Three signs tell a recipe gone wrong. Each is held against its row of the table:

# %% tags=["committed-ablations"]
Markdown(prose.scores.failure_signatures(kept))

# %% [markdown] tags=["committed-ablations"]
# ### Realignment
#
# How alike the last states of both arms are after contrastive training, less how alike they were before: debiased CKA
# for the global geometry, k-NN overlap for the local one.

# %% tags=["committed-ablations"]
plots.table(prose.scores.ablation_likeness(kept), "Committed: likeness of both arms before and after training, and realignment")

# %% tags=["committed-ablations"]
Markdown(prose.scores.realignment_sentences(kept))

# %% [markdown] tags=["committed-ablations"]
# Do conditions that realign the arms more score higher?

# %% tags=["committed-ablations"]
Markdown(prose.scores.realignment_and_scores(differences.realignment_against_scores(kept)))

# %% tags=["committed-ablations"]
plots.scatter(prose.scores.realignment_points(kept), x="realignment", y="change", facet="measure", diagonal=False,
              xlabel="realignment", ylabel="mean score of both arms less the recipe's").publish(
    study.name, "11_ablations", "committed-realignment", "Scatter of realignment against change of score over conditions, by measure")

# %% [markdown] tags=["committed-ablations"]
# How to read it: a point per condition of both arms, the recipe at height zero. A cloud that rises to the right would say
# that what pulls the arms together also makes better embedders.

# %% [markdown] tags=["own-ablations"]
# ## What this run changed
#
# Everything that is not named stays as in the recipe: data, batches, seeds, steps.

# %% tags=["own-ablations"]
plots.table(analysis.changed_settings(study), f"Ablations of profile {study.name}, beside the recipe's values", decimals=4)

# %% [markdown] tags=["own-ablations"]
# ## Scores under each condition
#
# Ablations are run with fewer seeds than the recipe, and the recipe is shown with the same ones.

# %% tags=["own-ablations"]
arms = {name for a in study.ablations for name in a.backbones}
seeds = {seed for a in study.ablations for seed in a.seeds}
models = [m.id for m in study.models() if m.backbone in arms and m.seed in seeds]
scores, per_query = evaluate.make_scores(study, models)
plots.table(prose.scores.score_table(study, scores), f"Scores x 100 by condition and arm, seeds {sorted(seeds)}")

# %% tags=["own-ablations"]
means = differences.overall_scores(study, scores)
plots.bars(means, x="condition", y="value", hue="arm", low="low", high="high", quantity="score",
           xlabel="condition", ylabel="mean score over tasks").publish(
    study.name, "11_ablations", "scores", "Bars of the mean score over tasks of each arm under each condition")

# %% [markdown] tags=["own-ablations"]
# How to read it: whiskers, where there are several seeds, are the lowest and the highest. A change of the recipe that
# matters moves a whole group; one that matters *for the question of the study* moves the bars of one group apart.

# %% [markdown] tags=["own-ablations"]
# ## Does the difference between arms change?

# %% tags=["own-ablations"]
conditions = [analysis.RECIPE, *(a.name for a in study.ablations)]
found = differences.all_differences(study, per_query, conditions, seeds=sorted(seeds))
overall = found[found["task"] == differences.ALL_TASKS]
plots.forest(overall, label="condition", value="difference", low="low", high="high", margin=study.verdict.margin,
             facet="pair", xlabel="mean score of b minus mean score of a").publish(
    study.name, "11_ablations", "differences",
    "Forest plot of the mean difference between arms under the recipe and under each ablation, with the margin band")

# %% [markdown] tags=["own-ablations"]
# How to read it: with one seed an interval covers the draw of queries and tasks and not that of training runs. No
# verdict is given on such rows: that on the recipe, with all its seeds, is in chapter 13.

# %% tags=["own-ablations"]
Markdown("\n".join(f"- {prose.scores.difference_sentence(row)}" for _, row in overall.iterrows())
         + "\n\n" + prose.scores.against_recipe(overall))

# %% [markdown] tags=["own-ablations"]
# ## Do the arms realign?
#
# Measured on the last states, before training and after it, under every condition and for every control.

# %% tags=["own-ablations"]
own = differences.make_ablation_table(study, differences.ablation_rows(study))
plots.table(prose.scores.ablation_likeness(own), "Likeness of the last states before and after training, and realignment")

# %% tags=["own-ablations"]
plots.forest(prose.scores.realignment_points(own), label="condition", value="realignment", low="low", high="high", facet="measure",
             xlabel="likeness after training less before").publish(
    study.name, "11_ablations", "realignment", "Forest plot of the realignment of both arms under each condition, by measure")

# %% [markdown] tags=["own-ablations"]
# How to read it: right of zero, contrastive training brought the two models closer; left of it, apart. Whiskers are
# intervals over texts, covering those of all seeds.

# %% tags=["own-ablations"]
Markdown(prose.scores.realignment_sentences(own) + "\n\n" + prose.scores.failure_signatures(own))
