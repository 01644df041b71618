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
# # Texts
#
# All starting points are trained on the same pairs, scored on the same tasks and compared on the same probe texts. The
# suite is small and real: dictionaries, manuals, code and mathematics out of free software packages, so that it can be
# passed on and works without a network.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose
from hrsa.study import load_profile, store
from hrsa.texts import hard_negatives, suite

study = load_profile(profile)

# %% [markdown]
# ## Sources and licences
#
# A data card beside every table of the suite holds source with version, licence, how the texts were taken, known
# faults, number of rows and a hash of the content.

# %%
plots.table(prose.texts.suite_sources(), "The text suite: parts, sizes, packages and licences")

# %% [markdown]
# How to read it: *train* are query-passage pairs, *eval* the tasks to score, *probe* the texts whose token states are
# compared. Training and evaluation share no source except the dictionary, whose entries were split by a hash of the
# definition before anything else was done.

# %% [markdown]
# ## What is trained on
#
# Each task has an instruction, which stands before its queries and never before passages. The profile takes the first
# pairs of a seeded shuffle of each task.

# %%
training = suite.load_training(study)
plots.table(prose.texts.training_counts(training), f"Training tasks of profile {study.name}")

# %% [markdown]
# How to read it: *pairs here* are what this profile may train on; a run consumes as many of them as its steps take. How
# many texts lost their end to the limit of tokens is counted in chapter 3.

# %%
plots.histogram(prose.texts.lengths(training), "words", hue="side", facet="task", xlabel="words in a text").publish(
    study.name, "02_texts", "lengths", "Distribution of the number of words of queries and passages by training task")

# %% [markdown]
# How to read it: number of words on the x axis, share of texts on the y axis. Terms and titles make short queries,
# manuals make long passages; a pile at the right end is where the builder cut passages.

# %% [markdown]
# ## Hard negatives
#
# A query learns most from passages that look right and are not. A reference embedder ranks all passages of the task;
# the nearest ranks are skipped, and anything too close to the positive is refused, because it may be a right answer
# that nobody marked.

# %%
mined = hard_negatives.make_triples(study)
report = store.read_json(mined / "report.json")
plots.table(prose.texts.mining_counts(report), f"Mining with {report['embedder']}: mining margin {report['margin']:g}, "
            f"{report['hard_negatives']} negatives for each pair; positive and negative: mean similarity")

# %% [markdown]
# How to read it: a *suspect* is a passage other than the positive that comes closer to it than the mining margin
# allows. *Refilled* pairs took a negative from the skipped ranks, because there was no other; pairs *left out* had too
# few candidates even then. *Given* pairs came with negatives of their own. The last two columns are the share of its
# positive's similarity that a mined negative has, in the median and at most.

# %%
Markdown(prose.texts.margin_sentence(report))

# %%
plots.histogram(prose.texts.mined_scores(mined), "score", hue="kind", facet="task",
                xlabel=f"similarity to the query ({report['embedder']})").publish(
    study.name, "02_texts", "negatives",
    "Distribution of the similarity of positives and hard negatives to their query by training task")

# %% [markdown]
# How to read it: similarity by the reference embedder on the x axis (cosine, or the BM25 score, whose scale depends on
# the task), share of passages on the y axis. Where the two outlines lie on top of each other, the reference embedder
# itself cannot tell right from wrong, and the task will be hard to learn.

# %%
plots.table(prose.texts.examples(report), "One triple of each task, shortened")

# %% [markdown]
# How to read it: the nearest negative should be about the same subject and still be wrong.

# %%
plots.table(prose.texts.suspects(report), "The suspect of each task that comes closest to its query beside the "
            "positive; share: of the positive's similarity")

# %% [markdown]
# How to read it: the refused passage ranks above the mining margin, often above the positive itself (share over 1).
# Where it answers the query, a false negative was kept out; where it does not, a good negative was lost.

# %% [markdown]
# ## What is scored
#
# Tasks marked as reasoning need more than similar content: the concept that solves a problem, the theorem a proof
# rests on.

# %%
plots.table(prose.texts.evaluation_tasks(study), f"Local evaluation tasks of profile {study.name}, as capped")

# %% [markdown]
# How to read it: *texts* are the passages to rank, or the texts to group, classify or compare. Caps keep every
# relevant passage of the queries that stay, so a smaller corpus makes a task easier, not different.

# %% [markdown]
# ## What is compared
#
# Probe texts pass through every model to be looked at layer by layer. The general ones have a topic and, as number to
# predict, their depth in the dictionary's hierarchy; the worked solutions have a topic and their number of steps.

# %%
plots.table(prose.texts.probe_counts(suite.read_probe_texts(study)), "Probe texts of the suite; the target is a depth "
            "(general) or a number of steps (maths)", decimals=1)

# %% [markdown]
# How to read it: easy and moderate solutions are word problems out of templates; hard ones were written by people for
# competition problems.

# %% [markdown]
# ## Nothing that is scored was trained on
#
# Two texts count as overlapping when they share thirteen successive words, whatever the case and punctuation.

# %%
Markdown(prose.texts.overlap_sentence(training))

# %% [markdown]
# How to read it: the check covers the pairs this profile trains on against all evaluation and probe texts, also those
# it does not use. It cannot see a text that was rewritten.
