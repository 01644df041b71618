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
# The study compares embedding models that differ only in the language model they start from. This chapter shows those
# language models and what sets them apart. The published study had to take models that others had trained, on data and
# for durations nobody could match. Here all of them come from one base, so that a later difference has one cause.
#
# | arm | how it is made | what it learns from |
# |---|---|---|
# | `base` | a small Qwen3-architecture model, pretrained from random weights | real text, and problems with their answers, some of them worked out |
# | `cpt` | the base's pretraining, continued | real text alone: the control for any further training |
# | `sft` | supervised fine-tuning from the base | worked solutions |
# | `rlvr` | GRPO from the base | its own answers; the reward is 1 for an exactly right answer and 0 otherwise |
# | `rlvr-long` | the same for several times as long, in rounds with a renewed reference | its own answers |
#
# A profile holds some of these arms. Its base may also come trained, in a Python package, and its arms be LoRA adapters
# on it; problems are then asked in its own chat template, after three worked examples: `4 - 1 - 7`, answered `-4`, or
# worked, `4 - 1 = 3, 3 - 7 = -4`. Arms `-b` are the same from another seed, measured on the same problems. A second base
# differs from the first in its random weights and its order of text alone. The problems come from `reasoning-gym`: sums
# of one-digit numbers, such as `Calculate 4-1-7:`, and in some profiles sums of products, such as `Calculate 2*3-4+1:`.
# The model may answer at once, `-4`, or work between think tags first, `<think>3-7=-4</think>-4`. Nothing asks it to do
# either: which way it goes is its own choice, and part of what training changes.

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
# Each arm has a card with its measurements, and ordinary Hugging Face weights beside it. Held-out problems are held out
# by construction: a hash of the sorted terms decides, so that no reordering of a training problem is ever asked.

# %%
Markdown(prose.backbones.where_backbones_come_from(study))

# %%
cards = prose.backbones.make_cards(study)
plots.table(prose.backbones.card_table(cards), f"Backbones of profile {study.name}: perplexity per token of held-out real text, "
            "share of held-out problems solved, KL divergence from the model compared with, in nats per token of own answers")

# %% [markdown]
# How to read it: perplexity says how well a model still predicts ordinary text, and lower is better; it has the arm's
# tokenizer as its unit, which all arms share. The divergence says how far an arm's answers are from what the model it is
# compared with would have said: its start, or for a second base the first. RLVR is known for moving little and SFT for moving more.

# %%
Markdown(prose.backbones.findings(cards))

# %% [markdown]
# Each sentence above follows from 95% intervals: "raises" and "lowers" are said only where the interval of the paired
# difference leaves out zero.

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
# other. A fall in steps is usual: word shapes come first, arithmetic late. A rise that stays would mean too large a
# learning rate.

# %% [markdown]
# ## Learning from rewards
#
# In RLVR each update asks a few dozen problems several times over and makes the answers that beat their group's mean
# more likely. Groups whose answers are all right or all wrong teach nothing.

# %%
rlvr = curves["arm"].isin(["rlvr", "rlvr-long"])
shares = curves[rlvr & curves["quantity"].isin(["reward", "groups without signal"])]
plots.curves(shares, x="step", y="value", hue="quantity", facet="backbone", quantity="score", xlabel="update",
             ylabel="share").publish(study.name, "01_backbones", "reward",
                                     "Mean reward and share of groups without signal over the updates of GRPO.")

# %% [markdown]
# How to read it: the reward is the share of right answers among those just sampled from training problems, so it can be
# compared with the sampled accuracy on held-out problems. It is noisy from update to update. A reward that falls back
# to zero would be a collapsed policy.

# %%
length = curves[rlvr & curves["quantity"].isin(["completion tokens", "entropy"])]
plots.curves(length, x="step", y="value", hue="backbone", facet="quantity", xlabel="update",
             ylabel="tokens, or nats per token").publish(
    study.name, "01_backbones", "policy", "Mean completion length and entropy over the updates of GRPO.")

# %% [markdown]
# How to read it: longer answers mean that the model works its answers out more often, and falling entropy that it becomes
# surer of what it writes. Both are what a policy that has found out that working pays would show.
#
# ## Learning from worked solutions

# %%
sft = curves[(curves["arm"] == "sft") & (curves["quantity"] == "loss")]
plots.curves(sft, x="step", y="value", hue="backbone", xlabel="update", ylabel="loss (nats per token)").publish(
    study.name, "01_backbones", "sft", "Loss on worked solutions over the updates of SFT.")

# %% [markdown]
# How to read it: the loss is on the tokens of the solution alone. A fast first fall is the model learning to begin with
# a think tag; what comes after it is arithmetic.
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
# How to read it: whiskers are 95% Wilson intervals of each share. Arms answer the same problems, so the difference from
# the start is known better than these whiskers suggest; the figure after the next shows it.

# %%
plots.bars(prose.backbones.accuracy_by_family(cards), x="backbone", y="value", hue="family", low="low", high="high", quantity="score",
           ylabel="share of sampled answers that are right").publish(
    study.name, "01_backbones", "families", "Sampled accuracy by family of problems, with 95% intervals.")

# %% [markdown]
# How to read it: whiskers are shorter where a family has more problems. A gain in one family alone would say that an arm
# learned that task and not to work answers out.

# %%
plots.forest(prose.backbones.accuracy_differences(cards), label="backbone", value="value", low="low", high="high", hue="mode",
             xlabel="accuracy minus that of the model compared with").publish(
    study.name, "01_backbones", "difference", "Paired difference in accuracy from the model compared with, with 95% intervals.")

# %% [markdown]
# How to read it: an interval right of zero is an arm that solves more problems than its start, on the same problems.
#
# ## Working out, or guessing
#
# Much of what a reward can teach a small model is to work its answer out rather than to guess. Accuracy is therefore
# also given by way of answering.

# %%
ways = prose.backbones.ways(cards)
plots.bars(ways, x="backbone", y="value", hue="way", low="low", high="high", quantity="score",
           ylabel="share of sampled answers that are right").publish(
    study.name, "01_backbones", "ways", "Accuracy of worked and of direct sampled answers, with 95% intervals.")

# %% [markdown]
# How to read it: within one way of answering, equal bars across arms mean that an arm gained by choosing that way more
# often. A way that an arm never took has no bar. The table gives how often each was taken.

# %%
plots.table(ways[["backbone", "way", "share", "n"]], "How often sampled answers were worked out or given directly")

# %% [markdown]
# ## How far the weights moved

# %%
plots.bars(prose.backbones.weights(cards), x="layer", y="value", hue="backbone",
           ylabel="relative weight change").publish(
    study.name, "01_backbones", "weights", "Relative change of the weights of each layer from those compared with.")

# %% [markdown]
# How to read it: the length of the change divided by the length of the weights it began with, layer by layer. These
# are different updates at different rates, so the figure describes the arms and does not rank the methods.

# %%
ranks = prose.backbones.weights(cards).dropna(subset="effective_rank")
plots.bars(ranks, x="layer", y="effective_rank", hue="backbone", ylabel="effective rank, share of full rank").publish(
    study.name, "01_backbones", "ranks", "Effective rank of the change of each layer's weights, mean over matrices.")

# %% [markdown]
# How to read it: 1 is a change in all directions alike, as between two bases with unrelated weights; a small share is a
# change in few directions. Weights are stored in 16 bits, and rounding a very small change spreads it over all
# directions: compare this figure with the one before.
#
# ## In their own words

# %%
plots.table(prose.backbones.samples(cards), "The first sampled answers of each backbone, not selected")

# %% [markdown]
# How to read it: compare the expression within the think tags with the problem. A sum that is copied wrongly and then
# added up correctly is a different fault from one that is added up wrongly.
