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
# # Evaluation
#
# Do embedders made from a reasoning model score higher, lower, or the same as those made from its base? "The same" has
# to be shown like any other claim, so every difference has its interval, beside the margin that the profile stated
# before the run.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown, display

from hrsa.evaluation import evaluate
from hrsa.report import plots, prose
from hrsa.study import load_profile
from hrsa.verdict import differences, evidence, synthesis

study = load_profile(profile)

# %% [markdown]
# ## Nothing but the start differs
#
# A fingerprint of every embedder holds the hash of all queries, positives and negatives in the order they were
# consumed, of the learning rates, the recipe, the pooling, the versions of code and libraries, and the weights it
# started from. Arms of one seed must agree in all but the last; a difference stops the study here.

# %%
arms = prose.training.all_fingerprints(study)
plots.table(arms, "Fingerprints of all embedders of the recipe (hashes shortened)")

# %%
Markdown(prose.training.arms_sentence(study))

# %% [markdown]
# ## What is scored
#
# mteb runs every task. A query carries its task's instruction, a document none; in symmetric tasks (pairs, clustering,
# classification) every text carries it. Two baselines stand beside the embedders: the *untrained* backbones, and BM25.
#
# A task's score is the mean of a value for every item: nDCG@10 of a query, the precision at a true pair, the share of
# classifiers that get a text right, the v-measure of a bootstrap sample.

# %%
models = [model.id for model in study.models() if model.ablation is None]
baselines = ["bm25"] if study.suite.tasks else []
scores, per_query = evaluate.make_scores(study, baselines + models)
Markdown(prose.scores.kept_sentence(study, models))

# %% [markdown]
# ## Scores
#
# One row per task and condition, one column per starting point; BM25 stands with the untrained ones.

# %%
plots.table(prose.scores.score_table(study, scores), f"Scores x 100 (profile {study.name}): mean ± standard deviation "
            f"over {len(study.seeds)} seeds; single runs have none")

# %% [markdown]
# How to read it: compare columns within a row, and the rows of one task; tasks have different metrics. The standard
# deviation is that of training runs, and says nothing about other queries.
#
# ## Do the embedders embed?
#
# Two embedders that learned nothing score alike. So this comes first: each embedder minus the untrained backbone that
# it was made from, query by query, over seeds, queries and tasks.

# %%
pool = evidence.make_pool(study)
stated = study.verdict.model_dump()
gained = differences.training_gains(study, pool.per_query, pool.families, pool.seeds, stated["alpha"], stated["resamples"])
Markdown("\n\n".join([prose.scores.gain_summary(gained), prose.scores.gains(gained), prose.scores.beside_lexical(study, scores)]))

# %%
plots.forest(gained, label="family", value="gain", low="low", high="high", hue="arm",
             xlabel="score of the embedder minus that of its untrained backbone").publish(
    study.name, "04_evaluation", "gains", "Forest plot of what contrastive training added to each arm, over all tasks and by "
    "family of tasks, with intervals")

# %% [markdown]
# How to read it: an interval right of zero is an arm that contrastive training made a better embedder on such tasks;
# left of zero, a worse one. Training used retrieval pairs alone, so that retrieval should gain most. Intervals are over
# runs and queries on these tasks; *like_low* and *like_high* in the table take the tasks as a sample too.

# %%
plots.table(gained, "Untrained, trained, and by chance; gain with its interval", decimals=3)

# %% [markdown]
# ## By family
#
# If training on retrieval data helped retrieval at the cost of clustering or classification, it would show here.

# %%
families = differences.family_scores(study, scores)
plots.bars(families[families["arm"] != "BM25"], x="family", y="value", hue="arm", facet="condition", low="low",
           high="high", quantity="score", xlabel="family of tasks", ylabel="mean score").publish(
    study.name, "04_evaluation", "families",
    "Bars of the mean score of each starting point by family of tasks, untrained and after contrastive training")

# %% [markdown]
# How to read it: bars are means over the tasks of a family, whiskers the lowest and highest seed. Arms side by side
# under *recipe* are the comparison of interest; the gap between the panels is what training did.

# %% [markdown] tags=["fewer-dimensions"]
# ## Fewer dimensions
#
# An embedding that is cut to its first dimensions takes less room and less time to search. Models that were trained for
# it (Matryoshka) lose little; of others it says how evenly the dimensions share the work. Mean scores x 100 over all
# tasks:

# %% tags=["fewer-dimensions"]
Markdown(prose.scores.by_dimensions(study, scores, evaluate.make_dimension_scores(study, models)))

# %% [markdown]
# ## Differences
#
# For each pair and task: the reasoning arm's score minus the base's, paired by seed and query, with the interval of a
# crossed bootstrap. The band is the margin.

# %%
found = differences.all_differences(study, per_query, ["untrained", "recipe"])
plots.forest(found, label="task", value="difference", low="low", high="high", margin=study.verdict.margin,
             hue="condition", facet="pair", xlabel="score of b minus score of a").publish(
    study.name, "04_evaluation", "differences",
    "Forest plot of the difference between the two arms of each pair, by task, with intervals and the margin band")

# %% [markdown]
# How to read it: each row by itself, without correction for the number of rows. An untrained backbone is a single run:
# its interval covers the draw of queries only. "All tasks" treats the tasks as a sample, so a few make a wide interval.
# An interval inside the band is no verdict yet: two embedders that learned nothing also score alike.
#
# What follows is said once, by the rule of chapter 15, which asks first whether a task could have shown a difference,
# and corrects for the number of pairs. Its words are these.

# %%
verdicts = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds, **stated)
Markdown(prose.verdict.verdict_lines(verdicts))

# %%
trained = found[found["condition"] == "recipe"]
plots.table(prose.scores.difference_table(trained), f"Differences b − a after training, scores x 100, {len(study.seeds)} seeds, "
            f"{100 * (1 - 2 * study.verdict.alpha):.0f}% intervals, uncorrected; margin: the smallest that these data "
            f"could have proved (stated: {100 * study.verdict.margin:g})", decimals=2)

# %% [markdown]
# ## The arm or the order?
#
# Embedders of one seed saw the same data in the same order. What would another order have changed, and what another
# arm? The variance between them is taken apart.

# %%
parts = synthesis.score_variances(per_query, study.pairs, study.seeds)
Markdown(prose.yardsticks.scores_said(parts))

# %%
plots.table(prose.yardsticks.score_parts(parts), "Squared differences of scores between two embedders by what they "
            "share, and the variances that follow, in squared points (scores x 100), with 95% intervals", decimals=2)

# %% [markdown]
# How to read it: *items* is about single queries and texts, mean over tasks; *mean* about the mean score. An arm that
# moves items and not the mean succeeds on others, as often. A part of the mean can be small beside what two orders do.

# %% [markdown]
# ## Query by query
#
# A mean difference of zero can hide two models that are good at different things. Each point is one item of one task,
# scored by both arms.

# %%
points = differences.query_table(study, scores, per_query)
plots.scatter(points, x="a", y="b", hue="family", facet="pair", xlabel="score of the base arm (a)",
              ylabel="score of the other arm (b)").publish(
    study.name, "04_evaluation", "queries",
    "Scatter of each item's score under one arm against its score under the other, one panel per pair")

# %% [markdown]
# How to read it: points above the diagonal are scored higher by arm b. Values are means over seeds. A cloud that hugs
# the diagonal means that the arms succeed on the same items; a wide, symmetric one, equal averages from different
# successes.

# %%
Markdown(prose.scores.items_alike(points))

# %% [markdown]
# ## From geometry to behaviour
#
# Does what changed around a query before contrastive training say on which queries the embedders will differ after it?
# Around a query the two untrained backbones are compared by the ten documents nearest to it, the ten nearest to its
# right ones, and its cosines with all documents. A ridge regression foretells the absolute difference of the trained
# arms' scores on queries it was not fitted on: from the backbones' scores alone, and with local change beside them.
# What is foretold of two runs of one arm too is which queries are unstable, and says nothing of the arms.

# %%
foretold = prose.scores.foretold_by_pair(study, per_query)
Markdown(prose.scores.foretold_said(foretold))

# %%
if len(foretold):
    display(plots.table(foretold, "Share of the variance within tasks that is foretold out of sample, with 95% intervals "
                        "over queries; gain: both less scores alone"))

# %% [markdown]
# Which layers say it, and which tokens? The same with queries and documents as the mean state, at one layer, of their
# tokens of one kind: content words, function words, or for queries the instruction. What it adds to scores is tested
# for every layer and kind, and corrected for their number.

# %%
where = prose.similarity.foretold_where(study, per_query)
Markdown(prose.similarity.foretold_where_said(where, study.verdict.alpha))

# %%
if len(where):
    display(plots.table(where, "What local change adds to scores, by layer and kind of token, as a share of the variance within "
                        "tasks, with 95% intervals over queries; holm: p-values after correction"))
