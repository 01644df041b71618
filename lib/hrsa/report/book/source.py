"""The book's source for one profile: its executed notebooks, checked, and a table of contents made from the profile."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import yaml

from hrsa.report.book.api import API, api_page
from hrsa.report.book.glossary import GLOSSARY
from hrsa.report.book.merged import merged_page
from hrsa.report.chapters import PAIR_CHAPTERS, book_page, chapters, executed, jobs, pair_chapters, record
from hrsa.report.notebooks import JobError, read_page
from hrsa.report.plots.continuous import curves
from hrsa.report.plots.drawing import PLOTLY
from hrsa.report.prose.answer import comparison
from hrsa.report.prose.run_records import records_page
from hrsa.report.results import make_overview
from hrsa.study import store
from hrsa.study.profile import Pair, Profile
from hrsa.texts import own_probes

WRITTEN = ("_config.yml", "intro.md", "glossary.md", "references.bib")
RECORDS = "run_records"
REFERENCE = (GLOSSARY, *API.values(), RECORDS)  # pages to look things up in
ANSWER = "<!-- the answer of this run -->"  # its place on the front page
_VERDICT, _TAG, _OVERVIEW = "13_verdict", "answer", "13_verdict/overview.png"  # where the front page has it from


class StageError(RuntimeError):
    """A page of the report cannot be used; the message lists which, and why."""


def chapter_pages(profile: Profile) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Parts of the book in order: (caption, [(chapter, names of its jobs)]); a chapter is one page."""
    once = [(chapter, ["study"]) for chapter in chapters(profile)]
    runs = [("03_training", names) for names in [jobs(profile).get("03_training", [])] if names]
    pairs = [pair.name for pair in profile.compared()]
    parts = [("The study", sorted([*(member for member in once if member[0] < "05"), *runs])),
             ("Inside, level by level", [(chapter, pairs) for chapter in pair_chapters(profile) if pairs]),
             ("Synthesis", [member for member in once if member[0] > "09"])]
    return [(caption, members) for caption, members in parts if members]


def run_label(profile: Profile, chapter: str, name: str) -> str:
    """What tells a run of a chapter from the others: "base vs rlvr (RLVR)", "base, seed 0", or nothing."""
    if chapter in PAIR_CHAPTERS:
        pair = profile.pair(name)
        return f"{pair.a} vs {pair.b} ({pair.kind})"
    if chapter == "03_training":
        model = profile.model(name)
        return f"{model.backbone}, seed {model.seed}"
    return ""


def table_of_contents(profile: Profile) -> dict[str, Any]:
    """The book's table of contents (sphinx-external-toc's form)."""
    parts = [{"caption": caption, "chapters": [{"file": book_page(chapter)} for chapter, _ in members]}
             for caption, members in chapter_pages(profile)]
    parts.append({"caption": "Reference", "chapters": [{"file": page} for page in REFERENCE]})
    return {"format": "jb-book", "root": "intro", "parts": parts}


def write_toc(profile: Profile, folder: Path) -> Path:
    """Write `_toc.yml` of a profile into a folder."""
    target = folder / "_toc.yml"
    text = yaml.safe_dump(table_of_contents(profile), sort_keys=False, allow_unicode=True)
    target.write_text(text, encoding="utf8")
    return target


def stage(profile: Profile, folder: Path) -> dict[str, int]:
    """Fill a new folder with the book's source; return the number of interactive figures by page.

    Raises StageError listing every executed notebook that is missing, damaged, failed, not run to its end, or that
    wrote to stderr (a warning); their records are removed, so that the same command makes them again.
    """
    folder.mkdir(parents=True)
    for name in WRITTEN:
        shutil.copyfile(store.BOOK / name, folder / name)
    shutil.copytree(store.BOOK / "_static", folder / "_static")
    faults, figures = [], {}
    for _, members in chapter_pages(profile):
        for chapter, names in members:
            pages = {}
            for name in names:
                try:
                    pages[name] = as_page(read_page(profile, chapter, name), chapter)
                except JobError as error:
                    faults.append(str(error))
                    run_again(profile, chapter, name)
            if len(pages) == len(names):
                labels = {name: run_label(profile, chapter, name) for name in names}
                notebook = merged_page(pages, "pair" if chapter in PAIR_CHAPTERS else "run", labels)
                nbformat.write(notebook, folder / book_page(chapter))
                figures[chapter] = count_figures(notebook)
    if faults:
        raise StageError("the report cannot be built from these executed notebooks; run `make book` to make them "
                         "again:\n" + "\n".join(f"- {fault}" for fault in faults))
    (folder / f"{RECORDS}.md").write_text(records_page(profile), encoding="utf8")
    for room, page in API.items():
        (folder / f"{page}.md").write_text(api_page(room), encoding="utf8")
    front = (folder / "intro.md").read_text(encoding="utf8")
    front = front.replace(ANSWER, front_answer(profile) if ANSWER in front else "")
    if (store.FIGURES / profile.name).is_dir():
        shutil.copytree(store.FIGURES / profile.name, folder / "_static" / "figures" / profile.name)
    (folder / "intro.md").write_text(link_only_to(folder, front), encoding="utf8")
    write_toc(profile, folder)
    return figures


def run_again(profile: Profile, chapter: str, name: str | None = None) -> None:
    """Remove the record of a chapter's job, or of all of them: the next run makes the page again."""
    for job in jobs(profile)[chapter] if name is None else [name]:
        (store.ROOT / record(profile, chapter, job)).unlink(missing_ok=True)


def front_answer(profile: Profile) -> str:
    """Markdown of the front page: three sentences and a figure that answer.

    They are those of the chapter on the verdict; for a profile that names its chapters, and so has none, they say how
    alike the two models of its pair are. StageError when the chapter has no such cell or figure.
    """
    pair = profile.pairs[0]
    if profile.chapters is not None:
        return _front_comparison(profile, pair)
    notebook = nbformat.read(store.ROOT / executed(profile, _VERDICT, "study"), as_version=4)
    said = [output.data["text/markdown"] for cell in notebook.cells if _TAG in cell.metadata.get("tags", [])
            for output in cell.get("outputs", []) if "text/markdown" in output.get("data", {})]
    there = (store.FIGURES / profile.name / _OVERVIEW).is_file()
    if len(said) != 1 or not there:
        run_again(profile, _VERDICT)
        raise StageError(f"{_VERDICT}: expected one cell tagged {_TAG!r} with its text and the figure {_OVERVIEW}, got "
                         f"{len(said)} and {'the' if there else 'no'} figure: run it again")
    caption = (f"{pair.a} and {pair.b} at four levels, as language models and as embedders, beside two runs of one "
               f"recipe; higher is more alike. [The verdict]({book_page(_VERDICT)}) has it to look into.")
    return _front("What this run found", said[0], profile, _OVERVIEW, caption)


def _front_comparison(profile: Profile, pair: Pair) -> str:
    """The front of a comparison of two models as they came; empty where no chapter compares their layers."""
    levels = make_overview(profile, pair.name)
    if levels.empty:
        return ""
    curves(levels, x="layer_x", y="value", hue="similarity", low="low", high="high", quantity="similarity",
           xlabel="state", ylabel="similarity").publish(
        profile.name, "overview", "levels", f"Similarity of {pair.a} and {pair.b} at matching states, by level")
    texts = own_probes.read_texts(Path(str(profile.analysis.texts)))
    return _front("How alike they are", comparison(levels, texts, profile.analysis.unit), profile,
                  "overview/levels.png", "Matching states at each level, with 95% intervals; higher is more alike.")


def _front(title: str, said: str, profile: Profile, figure: str, caption: str) -> str:
    about = caption.split(";")[0]
    return (f"## {title}\n\n{said}\n\n```{{figure}} _static/figures/{profile.name}/{figure}\n:alt: {about}\n\n"
            f"{caption}\n```")


def link_only_to(folder: Path, text: str) -> str:
    """Markdown in which a link to a chapter that this profile leaves out is its words alone."""
    def keep(link: re.Match) -> str:
        return link[0] if (folder / link[2]).is_file() else link[1]

    return re.sub(r"\[([^]]+)\]\(([^()]+\.ipynb)\)", keep, text)


def as_page(notebook: nbformat.NotebookNode, chapter: str) -> nbformat.NotebookNode:
    """A notebook as a page: heading with the chapter's number, code folded, overridden parameters left out."""
    first = notebook.cells[0]
    first.source = f"# {int(chapter[:2])}. {first.source.removeprefix('# ')}"
    injected = any("injected-parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            tags = set(cell.metadata.get("tags", []))
            hidden = "remove-cell" if injected and "parameters" in tags else "hide-input"
            cell.metadata["tags"] = sorted(tags | {hidden})
    for key in ("papermill", "widgets"):
        notebook.metadata.pop(key, None)
    return notebook


def count_figures(notebook: nbformat.NotebookNode) -> int:
    """How many interactive figures a page must show."""
    shown = [cell for cell in notebook.cells if cell.cell_type == "code"
             and not {"remove-cell", "remove-output"} & set(cell.metadata.get("tags", []))]
    return sum(PLOTLY in output.get("data", {}) for cell in shown for output in cell.outputs)
