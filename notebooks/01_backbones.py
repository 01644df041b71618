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
# # Backbones
#
# The study compares embedding models that differ only in the language model they start from. The published study had to
# take models that others had trained, on data and for durations nobody could match. Here all come from one base, so
# that a later difference has one cause.

# %% tags=["parameters"]
profile = "smoke"

# %%
from IPython.display import Markdown

from hrsa.report import plots, prose
from hrsa.study import load_profile

study = load_profile(profile)

# %% [markdown]
# ## The arms at a glance
#
# Each arm has a card with its measurements. A hash of a problem's sorted terms decides whether it is held out, so that
# no reordering of a training problem is ever asked.

# %%
cards = prose.backbones.make_cards(study)
Markdown(f"{prose.backbones.where_backbones_come_from(study)} {prose.backbones.problems_said(cards)}")

# %%
plots.table(prose.backbones.arm_table(study, cards), "What each arm is")

# %% [markdown]
# What each can do:

# %%
plots.table(prose.backbones.card_table(cards), f"Backbones of profile {study.name}: perplexity per token of held-out real text, "
            "share of held-out problems solved, KL divergence from the model compared with, in nats per token of own answers")

# %% [markdown]
# How to read it: perplexity says how well a model still predicts ordinary text, and lower is better. The divergence
# says how far an arm's answers are from what its start (for a second base, the first) would have said.

# %%
Markdown(prose.backbones.findings(cards))

# %% [markdown]
# "Raises" and "lowers" are said only where the 95% interval of the paired difference leaves out zero.

# %%
curves = prose.backbones.training_curves(study)

# %% [markdown] tags=["pretraining"]
# ## Learning to predict text
#
# Pretraining packs documents end to end and predicts each next token.

# %% tags=["pretraining"]
base = curves[(curves["arm"] == "base") & (curves["quantity"] == "loss")]
plots.curves(base, x="step", y="value", hue="backbone", xlabel="update", ylabel="loss (nats per token)").publish(
    study.name, "01_backbones", "pretraining", "Pretraining loss of the base over updates.",
) if len(base) else Markdown("The base of this profile came trained: there is no pretraining to show.")

# %% [markdown] tags=["pretraining"]
# How to read it: the loss starts near the logarithm of the vocabulary's size, where every token is as likely as any
# other. Word shapes come first, arithmetic late.

# %% [markdown]
# ## Learning from rewards
#
# Each update of GRPO asks a few dozen problems several times over and makes the answers that beat their group's mean
# more likely. Groups whose answers are all right or all wrong teach nothing.

# %%
rlvr = curves["arm"].isin(["rlvr", "rlvr-long"])
shares = curves[rlvr & curves["quantity"].isin(["reward", "groups without signal"])]
plots.curves(shares, x="step", y="value", hue="quantity", facet="backbone", quantity="score", xlabel="update",
             ylabel="share").publish(study.name, "01_backbones", "reward",
                                     "Mean reward and share of groups without signal over the updates of GRPO.")

# %% [markdown]
# How to read it: the reward is the share of right answers among those just sampled from training problems, comparable
# with the sampled accuracy on held-out problems. A reward that falls back to zero would be a collapsed policy.

# %%
length = curves[rlvr & curves["quantity"].isin(["completion tokens", "entropy"])]
plots.curves(length, x="step", y="value", hue="backbone", facet="quantity", xlabel="update",
             ylabel="tokens, or nats per token").publish(
    study.name, "01_backbones", "policy", "Mean completion length and entropy over the updates of GRPO.")

# %% [markdown]
# How to read it: longer answers mean that the model works its answers out more often, falling entropy that it becomes
# surer of what it writes.
#
# ## Learning from worked solutions

# %%
sft = curves[(curves["arm"] == "sft") & (curves["quantity"] == "loss")]
plots.curves(sft, x="step", y="value", hue="backbone", xlabel="update", ylabel="loss (nats per token)").publish(
    study.name, "01_backbones", "sft", "Loss on worked solutions over the updates of SFT.")

# %% [markdown]
# How to read it: the loss is on the tokens of the solution alone. What comes after the fast first fall, which is the
# form of an answer, is arithmetic.
#
# ## What they solve
#
# Every arm answers the same held-out problems, once greedily and once sampled at temperature 1.

# %%
solved = prose.backbones.accuracy(cards)
plots.bars(solved, x="backbone", y="value", hue="mode", low="low", high="high", quantity="score",
           ylabel="share of held-out problems solved").publish(
    study.name, "01_backbones", "accuracy", "Accuracy of each backbone on held-out problems with 95% intervals.")

# %% [markdown]
# How to read it: whiskers are 95% Wilson intervals of each share. Since arms answer the same problems, differences are
# known better than these suggest; the figure after the next shows them.

# %%
plots.bars(prose.backbones.accuracy_by_family(cards), x="backbone", y="value", hue="family", low="low", high="high", quantity="score",
           ylabel="share of sampled answers that are right").publish(
    study.name, "01_backbones", "families", "Sampled accuracy by family of problems, with 95% intervals.")

# %% [markdown]
# How to read it: a gain in one family alone would say that an arm learned that task and not to work answers out.

# %%
plots.forest(prose.backbones.accuracy_differences(cards), label="backbone", value="value", low="low", high="high", hue="mode",
             xlabel="accuracy minus that of the model compared with").publish(
    study.name, "01_backbones", "difference", "Paired difference in accuracy from the model compared with, with 95% intervals.")

# %% [markdown]
# How to read it: an interval right of zero is an arm that solves more problems than its start, on the same problems.
#
# ## Working out, or guessing
#
# Much of what a reward can teach a small model is to work its answer out rather than to guess. So accuracy is also
# given by way of answering.

# %%
ways = prose.backbones.ways(cards)
plots.bars(ways, x="backbone", y="value", hue="way", low="low", high="high", quantity="score",
           ylabel="share of sampled answers that are right").publish(
    study.name, "01_backbones", "ways", "Accuracy of worked and of direct sampled answers, with 95% intervals.")

# %% [markdown]
# How to read it: within one way of answering, equal bars across arms mean that an arm gained by choosing that way more
# often. A way that an arm never took has no bar.

# %%
plots.table(ways[["backbone", "way", "share", "n"]], "How often sampled answers were worked out or given directly")

# %% [markdown]
# ## How far the weights moved

# %%
plots.bars(prose.backbones.weights(cards), x="layer", y="value", hue="backbone",
           ylabel="relative weight change").publish(
    study.name, "01_backbones", "weights", "Relative change of the weights of each layer from those compared with.")

# %% [markdown]
# How to read it: the length of the change divided by the length of the weights it began with. These are different
# updates at different rates: the figure describes the arms and does not rank the methods.

# %%
ranks = prose.backbones.weights(cards).dropna(subset="effective_rank")
plots.bars(ranks, x="layer", y="effective_rank", hue="backbone", ylabel="effective rank, share of full rank").publish(
    study.name, "01_backbones", "ranks", "Effective rank of the change of each layer's weights, mean over matrices.")

# %% [markdown]
# How to read it: 1 is a change in all directions alike, a small share a change in few. Rounding a very small change to
# 16 bits spreads it over all directions: compare the figure before.
#
# ## In their own words

# %%
plots.table(prose.backbones.samples(cards), "The first sampled answers of each backbone, not selected")

# %% [markdown]
# How to read it: compare the working with the problem. A sum that is copied wrongly and then added up correctly is a
# different fault from one that is added up wrongly.
