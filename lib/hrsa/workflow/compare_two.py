"""Any two models: chapters 05-09 for a pair given as folders or hub names and a file of texts, as a report of its own.

`hrsa compare --a A --b B --texts FILE --unit word --out DIR` (or `make compare A=... B=... TEXTS=...`) makes
DIR a small study: a profile with two backbones and no training, the chapters that apply, a front page. The engine then
runs it, so that the same command goes on after any interruption. Cells of a chapter that only make sense for the
study's own texts or for trained embedders carry a tag and are left out here.
"""

from __future__ import annotations

import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pandas as pd
import yaml

from hrsa.analysis.probes import LEAST_LABELLED, TASKS
from hrsa.report.chapters import PAIR_CHAPTERS
from hrsa.report.notebooks import chapter_without
from hrsa.report.prose.pages import front_page
from hrsa.study import store
from hrsa.study.profile import Analysis, Profile, checked_profile
from hrsa.study.sections import fit_name
from hrsa.texts import own_probes
from hrsa.workflow.sizes import comparison_mb

UNITS = ("token", "word", "text")
MARK = ".hrsa-comparison"  # in the folder of a comparison: what this module may write into
LEAST_TEXTS = 8  # fewer say nothing about texts in general, and intervals are over texts
MOST_TEXTS = 400  # of a set: the states of more are not needed for a sample of `analysis.max_tokens`
CHECKED = 50  # texts on which two tokenizers are compared


def read_description(model: str) -> dict[str, Any]:
    """Source, path, sizes, manner and tokenizer of a model given as a folder or a hub name. ValueError: no model."""
    from hrsa.models.as_it_came import read_manner
    from hrsa.models.language_model import read_config_and_tokenizer

    if not model.strip():
        raise ValueError(f"expected the folder or the hub name of a model, got {model!r}: give --a and --b (A=… B=…)")
    folder = Path(model).resolve() if Path(model).is_dir() else None
    if folder is None and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise ValueError(f"expected the folder or the hub name (owner/name) of a model, got {model!r}, and no such "
                         "folder: correct the path")
    config, tokenizer = read_config_and_tokenizer(str(folder or model))
    shape = config.get_text_config()
    return {"source": "folder" if folder else "hub", "path": str(folder or model), "tokenizer": tokenizer,
            "manner": read_manner(str(folder or model)),
            "width": shape.hidden_size, "layers": shape.num_hidden_layers, "vocabulary": shape.vocab_size}


def names_of(a: str, b: str) -> tuple[str, str]:
    """Short names of two models, from the last part of each path (the one before it where that is `model`, as in
    artefacts); told apart by -a and -b where they are equal."""
    paths = [Path(model) for model in (a, b)]
    one, two = (fit_name(path.parent.name if path.name == "model" and path.parent.name else path.name, 36)
                for path in paths)
    return (one, two) if one != two else (f"{one}-a", f"{two}-b")


def check_unit(unit: str, a: dict[str, Any], b: dict[str, Any], texts: pd.DataFrame) -> None:
    """ValueError for an unknown unit, and for tokens of two tokenizers that differ on the first of the texts."""
    if unit not in UNITS:
        raise ValueError(f"expected a unit among {UNITS}, got {unit!r}")
    sample = texts["text"].head(CHECKED).tolist()
    if unit == "token" and a["tokenizer"](sample)["input_ids"] != b["tokenizer"](sample)["input_ids"]:
        raise ValueError("expected equal tokenizers for unit token, got two that cut these texts differently: take "
                         "unit word (states of words, aligned by character spans) or text")


def applicable_chapters(a: dict[str, Any], b: dict[str, Any], texts: pd.DataFrame,
                        rows: int) -> tuple[list[str], dict[str, str], list[str]]:
    """Chapters that can be run for a pair on so many `rows`, why others cannot, and the kinds of readout that the
    texts' labels allow."""
    left_out, tasks = {}, []
    if rows <= (wide := max(a["width"], b["width"])):
        left_out["06_procrustes"] = f"a map of {wide} dimensions is not unique on these texts, which give {rows} rows"
    for task, column in TASKS.items():
        known = texts.dropna(subset=[column]).groupby("set")[column].agg(["size", "nunique"])
        enough = known["size"].min() >= LEAST_LABELLED and known["nunique"].min() > 1
        if len(known) == texts["set"].nunique() and enough:
            tasks.append(task)
    if a["width"] != b["width"]:
        why = f"the models are {a['width']} and {b['width']} dimensions wide, and it needs equal widths"
        left_out |= dict.fromkeys(("05_correlation", "09_probes"), why)
    elif not tasks:
        left_out["09_probes"] = ("it needs a label or a target, with two values or more, for at least "
                                 f"{LEAST_LABELLED} texts of each set")
    return [chapter for chapter in PAIR_CHAPTERS if chapter not in left_out], left_out, tasks


def profile_of(a: str, b: str, texts: Path, unit: str, max_length: int = 64) -> tuple[Profile, str, list[str]]:
    """The profile of a comparison, its front page (Markdown) and the tags of cells that do not apply.

    `max_length` counts tokens of a text for unit token, else words. ValueError: no such model or file, too few texts,
    a unit that does not fit the tokenizers.
    """
    table = own_probes.read_texts(texts.resolve())
    if len(table) < LEAST_TEXTS:
        raise ValueError(f"expected at least {LEAST_TEXTS} texts in {texts.name}, got {len(table)}: add some")
    models = [read_description(model) for model in (a, b)]
    if models[0]["path"] == models[1]["path"]:
        raise ValueError(f"expected two models, got {models[0]['path']} twice: name another for a or b")
    check_unit(unit, *models, table)
    used = table.groupby("set").head(MOST_TEXTS)["text"]
    rows = len(used) if unit == "text" else sum(min(len(text.split()), max_length) for text in used)
    chapters, left_out, tasks = applicable_chapters(*models, table, min(rows, Analysis().max_tokens))
    names = names_of(a, b)
    pair = "-vs-".join(names)
    sets = table["set"].nunique()
    sizes = [(model["layers"], model["width"]) for model in models]
    held = math.ceil(comparison_mb(Analysis(), *sizes)[0])
    profile = checked_profile({
        "name": pair, "title": f"{names[0]} and {names[1]}, compared", "seeds": (), "chapters": chapters,
        "backbones": [{"name": name, "source": model["source"], "path": model["path"], "arm": "base"}
                      for name, model in zip(names, models, strict=True)],
        "pairs": [{"name": pair, "a": names[0], "b": names[1], "kind": "other"}],
        "analysis": {"texts": str(texts.resolve()), "unit": unit, "max_length": max_length,
                     "texts_per_set": min(MOST_TEXTS, int(table.groupby("set").size().max())),
                     "probe_texts": max(sets, min(len(table), 1200)),
                     "memory_mb": max(Analysis().memory_mb, held),
                     "ks": tuple(k for k in (5, 10, 50) if 4 * k <= rows) or (1,)}}, f"the comparison of {a} and {b}")
    tags = ["suite-texts", "embedders", *(task for task in TASKS if task not in tasks)]
    return profile, front_page(profile, models, table, left_out), tags


def check_place(folder: Path) -> None:
    """ValueError unless `folder` is new, empty, or that of an earlier comparison: what is in it is written over."""
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise ValueError(f"expected a new folder, an empty one, or one of an earlier comparison for the report, got "
                         f"{folder}, which is something else: give another one by --out (OUT=…)")


def write_study(folder: Path, profile: Profile, front: str, without: list[str]) -> None:
    """Make `folder` a study of this profile; a file that would not change keeps its time, so that nothing reruns.

    ValueError as `check_place`.
    """
    check_place(folder)
    source = store.ROOT
    _write(folder / MARK, "The folder of a report by `hrsa compare`, which may write it anew.\n")
    copy_sources(folder, "Snakefile", "jupyter_book/glossary.md", "jupyter_book/references.bib",
                 "jupyter_book/_static/**/*")
    config = (source / "jupyter_book" / "_config.yml").read_text(encoding="utf8")
    _write(folder / "jupyter_book" / "_config.yml", re.sub(r"(?m)^title: .*$", f"title: {profile.title}", config))
    _write(folder / "jupyter_book" / "intro.md", front)
    for chapter in profile.chapters or ():
        notebook = chapter_without(source / "notebooks" / f"{chapter}.ipynb", without)
        _write(folder / "notebooks" / f"{chapter}.ipynb", nbformat.writes(notebook))
        _write(folder / "notebooks" / f"{chapter}.py", jupytext.writes(notebook, fmt="py:percent"))
    write_profile(folder, profile)


def write_profile(folder: Path, profile: Profile) -> None:
    """Write what a profile sets to `notebooks/profiles/` of a study's folder."""
    text = yaml.safe_dump(profile.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    _write(folder / "notebooks" / "profiles" / f"{profile.name}.yaml", text)


def copy_sources(folder: Path, *patterns: str) -> None:
    """Copy this study's own files of these patterns to the same places of another study's folder; a file that would not
    change keeps its time."""
    for pattern in patterns:
        for file in sorted(store.ROOT.glob(pattern)):
            place = file.relative_to(store.ROOT)
            if file.is_file() and "vendor" not in place.parts:
                _write(folder / place, file.read_bytes())


def book_command(folder: Path, profile: Profile, cores: int) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run the study in a folder."""
    here = Path(sys.executable).parent
    environment = {**os.environ, "HRSA_ROOT": str(folder), "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    return [str(here / "hrsa"), "book", "--profile", profile.name, "--cores", str(cores)], environment


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    if not path.is_file() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        with store.atomic(path) as temporary:
            temporary.write_bytes(data)
