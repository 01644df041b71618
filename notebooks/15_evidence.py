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
# # How the verdict was reached
#
# "No significant difference" does not show that there is none: a small or noisy study always ends there, and two models
# that learned nothing score alike. So three questions are asked of the same numbers. Is there a difference? Is there
# none that matters? Could this run have seen one? Code chooses every sentence with a finding from the data of this run.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose, results
from hrsa.study import code_hash, load_profile
from hrsa.verdict import claims, controls, evidence, paired_scores, published, statement, synthesis, verdict

study = load_profile(profile)
stated = study.verdict.model_dump()

# %% [markdown]
# The scores of this run, and of other laboratories where there are any, are judged once, for all sections below.

# %%
pool = evidence.make_pool(study)
per_query, seeds = pool.per_query, pool.seeds
verdicts = synthesis.score_verdicts(per_query, pool.families, study.pairs, seeds, **stated)
checked = controls.control_verdicts(per_query, study.controls, seeds, **stated, pairs=study.pairs, judged=verdicts)
similar = synthesis.make_similarities(study)

# %% [markdown]
# ## Stated before the run
#
# Chosen after the scores are known, a margin can produce any answer. So margin, error rate, seeds, pairs, controls and
# the rule of competence are recorded with a hash before, and a later change stays visible.

# %%
statements = statement.record_statement(study)
first, changed = statement.stated_before(study, statements), statement.statement_changes(statements)
Markdown(prose.verdict.statement_sentence(statements, first, changed))

# %% [markdown]
# ## One verdict per pair
#
# The difference is the mean over tasks of the mean over queries of the score of *b* minus that of *a*, paired by
# training seed and query. *Equivalent*: the interval of a crossed bootstrap of seeds, queries and tasks lies inside the
# margin, and two one-sided t tests on the seed means agree. *Different*: zero is rejected. *Negligible*: both.
# *Inconclusive*: neither. *Uninformative*: too few tasks could have shown a difference, as the next section says.
# Holm's correction runs over the pairs. This rule gives the word on every page.

# %%
Markdown("\n\n".join([prose.verdict.verdict_lines(verdicts), prose.verdict.sight(checked),
                      prose.verdict.evidence_sources(pool, study.seeds)]))

# %% [markdown]
# Scores of others join when they come from the same models, recipe, suite and margin: this run's are in
# `data/runs/<profile>/evidence.parquet`, those received go to `data/evidence/<profile>/`.

# %%
short = {"written": pool.sources["written"].str[:10], "commit": pool.sources["commit"].str[:7]}
plots.table(pool.sources.assign(**short), "Files that the verdict rests on")

# %%
plots.forest(verdicts, label="family", value="difference", low="low", high="high", margin=study.verdict.margin,
             facet="pair", xlabel="score of b minus score of a").publish(
    study.name, "15_evidence", "verdicts",
    "Forest plot of the score difference of each pair, over all tasks and by family of tasks, with the margin as a band")

# %% [markdown]
# How to read it: the band is the margin, and intervals are corrected like the words. One that leaves out zero shows a
# difference, one inside the band that there is none that matters. Two exceptions give their reason in the text: too few
# tasks that could show a difference (uninformative), and one run of each arm (inconclusive). Tasks count as a sample of
# tasks: a family of two or three has a wide interval, a family of one speaks of that task alone. With two seeds almost
# everything is inconclusive.

# %%
columns = ["pair", "family", "verdict", "difference", "low", "high", "over", "tasks", "smallest_margin"]
plots.table(verdicts[columns], f"Verdicts at margin {study.verdict.margin:g}, {100 - 200 * study.verdict.alpha:.0f}% "
            "intervals, corrected as the words are; over: tasks that they are over, of those named", decimals=4)

# %% [markdown]
# How much was measured, on how many tasks both arms are competent, the p-values of the two tests after Holm's
# correction, and *alone*, the verdict without it.

# %%
columns = ["pair", "family", "seeds", "queries", "competent", "holm_difference", "holm_equivalence", "alone"]
plots.table(verdicts[columns], "Data and p-values behind each verdict", decimals=4)

# %%
Markdown(prose.verdict.families_agree(verdicts))

# %% [markdown]
# ## Could the tasks have shown a difference?
#
# Does the embedder beat chance, does it beat its own untrained backbone, is there room above it? Yes is said only by a
# test over seeds and queries. A task counts where it is not saturated and one arm at least beats both. Sameness is
# claimed over the tasks that count, and only where both arms are competent on more of them than luck would let pass:
# embedders on the floor get there in at most one study of twenty (3 of 8 to 16 tasks).

# %%
gate = synthesis.competence_by_task(per_query, study.pairs, seeds, **stated)
Markdown(prose.verdict.tasks_that_count(gate))

# %%
columns = ["pair", "task", "arm", "score", "untrained", "chance", "beats_chance", "beats_untrained", "has_room", "counts"]
plots.table(gate[columns], "The competence of each embedder on each task; tasks that do not count are shown all the same")

# %% [markdown]
# How to read it: mean scores over seeds and queries. A score above another is not enough for a yes: its interval has to
# be clear of it.
#
# Would another analysis say otherwise? Over the same tasks, without correction for the number of pairs: the same
# bootstrap with tasks held fixed, a mixed model, a Bayesian region of practical equivalence, and t tests on seed means.

# %%
others = synthesis.other_analyses(per_query, study.pairs, seeds, **stated)
Markdown(prose.verdict.analyses_agree(others, verdicts))

# %%
plots.table(others.drop(columns="about"), "Other analyses of the same scores; inside: posterior mass within the margin",
            decimals=4)

# %% [markdown]
# How to read it: where all methods agree, the verdict does not hang on one of them. The next table says what each
# generalises to.

# %%
plots.table(others[["method", "about"]].drop_duplicates(), "What each analysis is")

# %% [markdown]
# ## Could this run have seen a difference?
#
# Controls are comparisons whose answer is known beforehand, trained, scored and judged like the pairs. A positive control
# should come out different, a negative control should not.

# %%
Markdown(f"{prose.verdict.sight(checked)}\n\n{prose.verdict.controls_said(checked)}")

# %%
plots.forest(controls.beside_pairs(verdicts, checked), label="comparison", value="difference", low="low", high="high",
             hue="asked", margin=study.verdict.margin, xlabel="score of b minus score of a").publish(
    study.name, "15_evidence", "controls",
    "Forest plot of the score difference of each pair and each control, by what was expected, with the margin as a band")

# %% [markdown]
# How to read it: the pairs are those of the first figure, on all tasks. A control expected to be different should leave
# out zero; one expected to be the same should lie inside the band, or cover zero at least. How far the positive
# controls lie from zero is the measure for how far the pairs could have.

# %% [markdown]
# ## What would settle it
#
# More seeds help against variation between training runs, more tasks against that between tasks, more queries against
# that between queries.

# %%
parts = synthesis.error_shares(per_query, study.pairs, seeds)
plots.bars(parts, x="component", y="share", hue="pair", xlabel="source of variation",
           ylabel="share of the variance of the difference").publish(
    study.name, "15_evidence", "sources", "Bars of the share of each source of variation in the error of each pair's difference")

# %%
Markdown(prose.verdict.error_sentences(parts))

# %% [markdown]
# The planner simulates studies of other sizes with these variances and a true difference of zero, and applies the rule
# above, taking both arms as competent. `make power` prints it for any margin, and for as much variation between runs as
# these seeds leave possible.

# %%
sizes = ([2, 3, 5, 8, 12], [50, 200, 800])
plan = synthesis.plans(per_query, study.pairs, seeds, stated["margin"], stated["alpha"], sizes,
                       paired_scores.hours_per_seed(study))
plots.curves(plan, x="seeds", y="power", hue="queries", facet="pair", xlabel="training seeds",
             ylabel="power to prove the margin").publish(
    study.name, "15_evidence", "power",
    "Curves of the power to prove equivalence against the number of seeds, one curve per number of queries per task")

# %% [markdown]
# How to read it: the chance that a study of that size proves equivalence when there is no difference at all. Where
# curves lie on each other, more queries would not help. Where one stays low, tasks or runs vary too much for this
# margin.

# %%
plots.table(plan, f"Power at margin {study.verdict.margin:g}, the margin provable with power 0.8, and hours of training "
            "and scoring both arms on the machine of this run", decimals={"power": 2, "provable": 4, "hours": 2})

# %% [markdown]
# ## The arm or the order?
#
# A difference between arms counts as far as it stands out from what another order of the data makes. The variance is
# taken apart into arm, order and both.

# %%
parts = synthesis.make_similarity_sources(study)
plots.forest(prose.yardsticks.share_table(parts), label="similarity", value="share", low="low", high="high", hue="part",
             facet="pair", xlabel="share of the variance of the embedders").publish(
    study.name, "15_evidence", "arm-or-order",
    "Forest plot of the shares of arm, order and both in the variance of the embedders, by similarity and pair")

# %% [markdown]
# How to read it: shares of the variance between embedders, mean over layers. An interval of *arm* that leaves out zero
# says that where training started is still seen afterwards. Intervals cover resampled texts, and the orders too where
# there are three or more.

# %%
plots.table(prose.yardsticks.distance_table(parts), "Mean squared distance between two embedders, by what they share, with 95% "
            "intervals: the last two columns differ by what one order for both arms hides")

# %% [markdown]
# ## The paper's claims
#
# Each claim has a rule, stated in `hrsa.verdict.claims` before any run, that compares an interval with a threshold or
# with another interval.

# %%
table = claims.all_claims(claims.score_claims(verdicts), claims.similarity_claims(similar))
plots.table(table[["claim", "pair", "outcome", "measured"]],
            f"Claims of the paper, what this run measured (profile {study.name}), and whether they hold")

# %% [markdown]
# How to read it: *measured* is the value, its interval and what it is compared with. Similarities are means over layers
# (inverse row entropy: the last layer); the interval covers resampled texts and all seeds. An outcome is about the
# small models of this run: evidence on the paper's mechanism, not a repetition at its scale.

# %%
plots.table(table[["level", "claim", "rule"]].drop_duplicates(), "The rule of each claim")

# %%
plots.table(claims.count_outcomes(table), "Outcomes by level")

# %% [markdown]
# ## The published scores, tested
#
# The paper prints the mean difference over three seeds and a "std" without saying of what. Under each possible meaning
# the tests can be redone from its table. They treat tasks and queries as fixed, and so speak of these benchmarks only.

# %%
cells = published.reanalyse(margin=1.0)
strict = published.reanalyse(margin=0.5)
Markdown(f"{prose.paper.published_scores_said(strict)}\n\n{prose.paper.published_scores_said(cells)}")

# %%
shown = cells[(cells["reading"] == published.READINGS[0].name) & (cells["kind"] != "SFT")]
plots.forest(shown, label="pair", value="delta", low="low", high="high", margin=1.0, facet="benchmark",
             xlabel="difference (points)").publish(
    study.name, "15_evidence", "published",
    "Forest plot of the published differences of RLVR pairs on three benchmarks with 90% intervals and a margin of one point")

# %% [markdown]
# How to read it: intervals are for the narrowest reading, std over seeds of the paired difference, corrected like the
# words. Whether these tasks could have shown a difference cannot be asked: the paper prints no untrained scores.

# %%
plots.table(published.verdicts_by_reading(), "Published RLVR cells by verdict, for each reading of the std and each margin (points)")

# %%
columns = ["pair", "benchmark", "reading", "delta", "interval", "std", "holm_difference", "holm_equivalence", "verdict"]
bounds = [f"[{row.low:+.2f}, {row.high:+.2f}]" for row in cells.itertuples()]
plots.table(cells.assign(interval=bounds)[columns], "All 15 published cells at a margin of one point, under each reading; p-values after Holm")

# %% [markdown]
# ## The published realignment, counted
#
# Manifold realignment says that contrastive training pulls both models back together. The published inverse row entropy
# of the map between them allows a count.

# %%
Markdown(prose.paper.realignment_counted(published.rises_in_entropy()))

# %%
plots.table(published.entropy_change(), "Published inverse row entropy before and after contrastive training")

# %% [markdown]
# ## Does the rule keep its promise?
#
# A rule that says "equivalent" must rarely say so wrongly. In the simulation the truth is known: the true difference is
# one margin, or zero. This is a committed result, made by the command below.

# %%
simulated, record = results.read_committed("verdict_simulation")
made = prose.verdict.simulation_origin(record, code_hash.code_hash(verdict))
Markdown(f"{prose.verdict.simulation_sentence(simulated)}\n\n{prose.verdict.gate_sentence(simulated)}\n\n{made}")

# %%
apart = simulated[~simulated["scenario"].str.contains(":")]
plots.heatmap(apart, x="method", y="scenario", value="false_equivalence", xlabel="method", ylabel="scenario").publish(
    study.name, "15_evidence", "proof",
    "Heat map of how often each method calls two arms the same although they differ by one margin, by scenario")

# %% [markdown]
# How to read it: the share of simulated studies that call the arms the same although they differ by one margin; 0.05 is
# allowed. "p > .05" takes a missing proof for a proof. "within std" asks whether the difference is smaller than its
# standard deviation over three seeds. "pooled queries" forgets that queries share a training run. The naive bootstrap
# resamples three seeds as if they were many. Scenarios marked `limit` break what the rule assumes: many queries that
# move, and clusters of queries named as tasks.

# %%
floor = simulated[simulated["scenario"].str.startswith("floor")]
plots.heatmap(floor, x="method", y="scenario", value="false_equivalence", xlabel="method", ylabel="scenario").publish(
    study.name, "15_evidence", "floor",
    "Heat map of how often each method calls two arms the same that learned nothing, or that have no room above them")

# %% [markdown]
# How to read it: here nothing follows from a difference of zero: neither arm learned anything, both were harmed, too
# few tasks were learned, or everything is right already. "No gate" is the verdict without the question of competence.
# Uninformative is the right word; the table has how often it is said.

# %%
columns = ["scenario", "seeds", "tasks", "queries", "method", "false_equivalence", "power_at_zero", "planned",
           "false_difference", "uninformative", "limit"]
plots.table(simulated[columns], "Committed simulation: error rates, power where there is no difference and both arms are "
            "competent, the planner's forecast, and how often the gate closes")
