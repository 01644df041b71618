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
# The paper reports a null effect: a reasoning model, turned into an embedding model, scores like its base. "No
# significant difference" does not show that; a study that is small or noisy enough always ends there. This chapter
# asks three questions of the same numbers: is there a difference, is there none that matters, and could this run have
# seen one at all? Then it goes through the paper's claims one by one. Every sentence with a finding is chosen by code
# from the data of this run.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose, results
from hrsa.study import code_hash, load_profile
from hrsa.verdict import claims, evidence, paired_scores, published, statement, synthesis, verdict

study = load_profile(profile)
stated = study.verdict.model_dump()

# %% [markdown]
# ## Stated before the run
#
# Margin, error rate, seeds and pairs belong to the question. Chosen after the scores are known they can produce any
# answer, so they are recorded with a hash, and a later change stays visible.

# %%
statements = statement.record_statement(study)
first, changed = statement.stated_before(study, statements), statement.statement_changes(statements)
Markdown(prose.verdict.statement_sentence(statements, first, changed))

# %% [markdown]
# ## One verdict per pair
#
# The difference is the mean over tasks of the mean over queries of the score of *b* minus that of *a*, with *a* and *b*
# paired by training seed and query. *Equivalent* means that the interval of a crossed bootstrap of seeds, queries and
# tasks lies inside the margin, and that two one-sided t tests on the seed means agree. *Different* means that zero is
# rejected; *negligible*, both; *inconclusive*, neither. Holm's correction runs over the pairs.

# %%
pool = evidence.make_pool(study)
per_query, seeds = pool.per_query, pool.seeds
verdicts = synthesis.score_verdicts(per_query, pool.families, study.pairs, seeds, **stated)
Markdown(f"{prose.verdict.verdict_lines(verdicts)}\n\n{prose.verdict.evidence_sources(pool, study.seeds)}")

# %% [markdown]
# Scores of other machines or laboratories join the analysis when they come from the same models, recipe, suite and
# margin: this run's are in `data/runs/<profile>/evidence.parquet`, those received go to `data/evidence/<profile>/`.

# %%
short = {"written": pool.sources["written"].str[:10], "commit": pool.sources["commit"].str[:7]}
plots.table(pool.sources.assign(**short), "Files that the verdict rests on")

# %%
plots.forest(verdicts, label="family", value="difference", low="low", high="high", margin=study.verdict.margin,
             facet="pair", xlabel="score of b minus score of a").publish(
    study.name, "12_verdict", "verdicts",
    "Forest plot of the score difference of each pair, over all tasks and by family of tasks, with the margin as a band")

# %% [markdown]
# How to read it: the band is the margin. An interval inside the band shows equivalence, one that sticks out of the band
# and covers zero shows nothing. One that leaves out zero points to a difference; the test of it is stricter than this
# interval (two-sided, seed means and bootstrap, corrected), so go by the word in the table. Tasks count as a sample of
# tasks, so that a family of two or three has a wide interval, and a family of one speaks of that task alone. With two
# seeds almost everything is inconclusive: two runs say little about how runs vary.

# %%
columns = ["pair", "family", "verdict", "difference", "low", "high", "smallest_margin"]
plots.table(verdicts[columns], f"Verdicts at margin {study.verdict.margin:g}, {100 - 200 * study.verdict.alpha:.0f}% "
            "intervals", decimals=4)

# %% [markdown]
# What they rest on: how much was measured, the p-values of the two tests after Holm's correction, and *alone*, the
# verdict without it.

# %%
columns = ["pair", "family", "seeds", "tasks", "queries", "holm_difference", "holm_equivalence", "alone"]
plots.table(verdicts[columns], "Data and p-values behind each verdict", decimals=4)

# %%
Markdown(prose.verdict.families_agree(verdicts))

# %% [markdown]
# Would another analysis say otherwise? Beside the verdict, without correction for the number of pairs: the same
# bootstrap with tasks held fixed, a mixed model, a Bayesian region of practical equivalence, and t tests on seed means.

# %%
others = synthesis.other_analyses(per_query, study.pairs, seeds, **stated)
Markdown(prose.verdict.analyses_agree(others))

# %%
plots.table(others.drop(columns="about"), "Other analyses of the same scores; inside: posterior mass within the margin",
            decimals=4)

# %% [markdown]
# How to read it: where all methods agree, the verdict does not hang on one of them. They differ in what they generalise
# to, which the next table says.

# %%
plots.table(others[["method", "about"]].drop_duplicates(), "What each analysis is")

# %% [markdown]
# ## Could this run have seen a difference?
#
# A positive control: arm *b* of each pair is moved until its difference is exactly one margin, with all its noise kept.
# A run that does not detect this shift is unable to see, whatever it says about the real difference. The SFT arm, where
# there is one, is a second control: the paper finds that it differs.

# %%
controls = synthesis.controls(per_query, study.pairs, seeds, **stated)
Markdown(prose.verdict.sight(controls, verdicts))

# %%
plots.table(controls[["pair", "kind", "shift", "p_value", "holm", "sees"]],
            "Positive control: an injected shift of one margin; detected where p after Holm is below alpha")

# %% [markdown]
# ## What would settle it
#
# The measured variation of the differences splits into parts: between training runs, between tasks, between queries,
# and the rest. More seeds help against the first, more tasks against the second, more queries against the third.

# %%
parts = synthesis.error_shares(per_query, study.pairs, seeds)
plots.bars(parts, x="component", y="share", hue="pair", xlabel="source of variation",
           ylabel="share of the variance of the difference").publish(
    study.name, "12_verdict", "sources", "Bars of the share of each source of variation in the error of each pair's difference")

# %%
Markdown(prose.verdict.error_sentences(parts))

# %% [markdown]
# The planner simulates studies of other sizes with these variances and a true difference of zero, and applies the rule
# above. `make power` prints it for any margin, and also for variation between runs as large as these seeds leave
# possible.

# %%
sizes = ([2, 3, 5, 8, 12], [50, 200, 800])
plan = synthesis.plans(per_query, study.pairs, seeds, stated["margin"], stated["alpha"], sizes,
                       paired_scores.hours_per_seed(study))
plots.curves(plan, x="seeds", y="power", hue="queries", facet="pair", xlabel="training seeds",
             ylabel="power to prove the margin").publish(
    study.name, "12_verdict", "power",
    "Curves of the power to prove equivalence against the number of seeds, one curve per number of queries per task")

# %% [markdown]
# How to read it: each curve is the chance that a study of that size proves equivalence when there is no difference at
# all. Curves that lie on each other say that more queries would not help. A curve that stays low says that tasks or
# runs vary too much for this margin.

# %%
plots.table(plan, f"Power at margin {study.verdict.margin:g}, the margin provable with power 0.8, and hours of training "
            "and scoring both arms on the machine of this run", decimals={"power": 2, "provable": 4, "hours": 2})

# %% [markdown]
# ## The levels at a glance
#
# Matching layers of the profile's first pair, compared at the four levels of HRSA, before and after contrastive
# training. Chapters 05 to 08 show each level in full, for every pair.

# %%
first = study.pairs[0].name
levels = results.make_overview(study, first)
plots.curves(levels, x="layer_x", y="value", hue="models", facet="similarity", low="low", high="high",
             references=["null", "runs", "crossed"], quantity="similarity", xlabel="state", ylabel="similarity").publish(
    study.name, "12_verdict", "overview",
    f"Similarity of matching layers at four levels, backbones and embedders, with null and yardsticks, pair {first}")

# %% [markdown]
# How to read it: 1 means alike. The null compares tokens with other tokens. Two runs of one recipe share the arm and not
# the order of the data; other arm, other order shares neither: where it lies on the former, the arms differ no more than
# two training runs do. Bands cover the 95% intervals over texts of all seeds.

# %% [markdown]
# ## The arm or the order?
#
# A difference between arms is worth as much as it stands out from the difference that another order of the data makes.

# %%
Markdown(prose.yardsticks.why_sources())

# %%
parts = synthesis.make_similarity_sources(study)
plots.forest(prose.yardsticks.share_table(parts), label="similarity", value="share", low="low", high="high", hue="part",
             facet="pair", xlabel="share of the variance of the embedders").publish(
    study.name, "12_verdict", "arm-or-order",
    "Forest plot of the shares of arm, order and both in the variance of the embedders, by similarity and pair")

# %% [markdown]
# How to read it: shares of the variance between embedders, mean over layers. An interval of *arm* that leaves out zero
# says that where training started is still seen afterwards, whatever the order of the data. Intervals cover resampled
# texts, and the orders too where there are three or more.

# %%
plots.table(prose.yardsticks.distance_table(parts), "Mean squared distance between two embedders, by what they share, with 95% "
            "intervals: the last two columns differ by what one order for both arms hides")

# %% [markdown]
# ## The paper's claims
#
# Each claim has a rule, stated in `hrsa.verdict.claims` before any run, that compares an interval with a threshold or with
# another interval. A claim holds or fails only when the intervals are clear of each other; otherwise it is inconclusive.
# That something rises is not testable where it is as high as can be told already.

# %%
similar = synthesis.make_similarities(study)
table = claims.all_claims(claims.score_claims(verdicts), claims.similarity_claims(similar))
Markdown(prose.verdict.headline(table))

# %%
plots.table(table[["claim", "pair", "outcome", "measured"]],
            f"Claims of the paper, what this run measured (profile {study.name}), and whether they hold")

# %% [markdown]
# How to read it: *measured* gives the value with its interval and what it is compared with. Similarities are means over
# layers (inverse row entropy: the last layer); the interval covers resampled texts and all seeds. An outcome is about
# the small models of this run; it is evidence on the paper's mechanism and not a repetition at its scale.

# %%
plots.table(table[["level", "claim", "rule"]].drop_duplicates(), "The rule of each claim")

# %%
plots.table(claims.count_outcomes(table), "Outcomes by level")

# %% [markdown]
# ## The published scores, tested
#
# The paper prints the mean difference over three seeds and a "std" without saying of what. Under each possible meaning
# the tests can be redone from the table. The numbers are the paper's and not of this run. They treat tasks and queries
# as fixed, so that they speak of these benchmarks only.

# %%
cells = published.reanalyse(margin=1.0)
strict = published.reanalyse(margin=0.5)
Markdown(f"{prose.paper.published_scores_said(strict)}\n\n{prose.paper.published_scores_said(cells)}")

# %%
shown = cells[(cells["reading"] == published.READINGS[0].name) & (cells["kind"] != "SFT")]
plots.forest(shown, label="pair", value="delta", low="low", high="high", margin=1.0, facet="benchmark",
             xlabel="difference (points)").publish(
    study.name, "12_verdict", "published",
    "Forest plot of the published differences of RLVR pairs on three benchmarks with 90% intervals and a margin of one point")

# %% [markdown]
# How to read it: intervals are for the narrowest reading, std over seeds of the paired difference. An interval that
# leaves out zero points to a difference that three seeds agree on; inside the band, it is smaller than one point.

# %%
plots.table(published.verdicts_by_reading(), "Published RLVR cells by verdict, for each reading of the std and each margin (points)")

# %%
columns = ["pair", "benchmark", "reading", "delta", "std", "low", "high", "holm_difference", "holm_equivalence", "verdict",
           "smallest_margin"]
plots.table(cells[columns], "All 15 published cells at a margin of one point, under each reading; p-values after Holm")

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
# one margin, or zero. This is a committed result, made by the command below, and not computed in this run.

# %%
simulated, record = results.read_committed("verdict_simulation")
Markdown(f"{prose.verdict.simulation_sentence(simulated)}\n\n{prose.verdict.simulation_origin(record, code_hash.code_hash(verdict))}")

# %%
plots.heatmap(simulated, x="method", y="scenario", value="false_equivalence", xlabel="method",
              ylabel="scenario").publish(
    study.name, "12_verdict", "proof",
    "Heat map of how often each method calls two arms the same although they differ by one margin, by scenario")

# %% [markdown]
# How to read it: each number is the share of simulated studies that call the arms the same although they differ by one
# margin; 0.05 is allowed. "p > .05" takes a missing proof for a proof. "within std" asks whether the difference is
# smaller than its standard deviation over three seeds. "pooled queries" forgets that queries share a training run. The
# naive bootstrap resamples three seeds as if they were many. A low number alone is no merit: see the power beside it.
# Scenarios marked `limit` break what the rule assumes: many queries that move, and clusters of queries named as tasks.

# %%
columns = ["scenario", "seeds", "tasks", "queries", "method", "false_equivalence", "power_at_zero", "planned",
           "false_difference", "limit"]
plots.table(simulated[columns], "Committed simulation: error rate at the margin, power at zero, the planner's forecast")
