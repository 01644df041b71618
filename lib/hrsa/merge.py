"""Scores of several machines or laboratories in one analysis: share those of a run, join those of others.

`share` writes the evidence file of a run, to be sent to others. Files received go to `data/evidence/<profile>/`, and
the verdict chapter then speaks of all seeds; without a run of one's own, `python -m hrsa.merge --files` gives the
verdict of files alone. Files join when their fingerprints agree: models, recipe, suite, margin (`hrsa.verdict.evidence`).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hrsa.study import store
from hrsa.study.profile import Profile, load_profile
from hrsa.verdict import evidence

OWN = "this run"


@dataclass(frozen=True)
class Pool:
    """Joined scores and where they come from."""

    per_query: pd.DataFrame  # model, task, query, value
    families: pd.Series  # of each task
    seeds: tuple[int, ...]  # for which every pair has both arms
    sources: pd.DataFrame  # source, seeds, models, scores, written, commit, code, statement


def received(profile: Profile) -> list[Path]:
    """Evidence files of others for this profile, in `data/evidence/<profile>/`."""
    return sorted((store.ROOT / "data" / "evidence" / profile.name).glob("*.parquet"))


def share(profile: Profile, path: Path, source: str) -> Path:
    """Write what has been scored here as an evidence file for others; `source` names machine or laboratory."""
    per_query, families = evidence.finished(profile)
    evidence.write(path, profile, per_query, source, families)
    return path


def pooled(profile: Profile) -> Pool:
    """This run's scores, made first where missing and kept as `data/runs/<profile>/evidence.parquet`, joined with
    the files received. ValueError when a file does not join."""
    own = store.RUNS / profile.name / "evidence.parquet"
    per_query, families = evidence.gather(profile)
    evidence.write(own, profile, per_query, OWN, families)
    return join(profile, [own, *received(profile)])


def join(profile: Profile, files: Sequence[Path]) -> Pool:
    """Evidence files as one body of scores; ValueError as `hrsa.verdict.evidence.join`, and when no two seeds are complete."""
    per_query, metas = evidence.join(files)
    seeds = set.intersection(*(set(evidence.seeds_of(per_query, pair.a, pair.b)) for pair in profile.pairs))
    if not seeds:
        raise ValueError(f"expected scores of both arms of {', '.join(p.name for p in profile.pairs)} for a seed, got "
                         f"those of {sorted(per_query['model'].unique())}: join files that complete a seed")
    rows = [_described(Path(file), meta) for file, meta in zip(files, metas, strict=True)]
    families = {task: family for meta in metas for task, family in meta["families"].items()}
    return Pool(per_query, pd.Series(families), tuple(sorted(seeds)), pd.DataFrame(rows))


def _described(file: Path, meta: dict) -> dict:
    table, made = evidence.read(file)[0], meta["provenance"]
    models = sorted(table["model"].unique())
    seeds = sorted({int(found[1]) for model in models if (found := re.search(r"-s(\d+)$", model))})
    return {"source": meta["source"], "file": file.name, "seeds": ", ".join(map(str, seeds)), "models": len(models),
            "scores": len(table), "written": made["written"], "commit": made["commit"][:10], "code": made["code"],
            "statement": meta["statement"]["hash"]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: share a run's scores, or print the verdict of joined files; 1 with one message on an error."""
    from hrsa.report.prose import verdict
    from hrsa.verdict import synthesis

    parser = argparse.ArgumentParser(description="Share the scores of a run, or join those of several.")
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--share", type=Path, metavar="FILE", help="write the scores of this machine's run to FILE")
    parser.add_argument("--source", default="unnamed", help="who shares: machine or laboratory")
    parser.add_argument("--files", type=Path, nargs="+", help="print the verdict of these files joined")
    chosen = parser.parse_args(arguments)
    if (chosen.share is None) == (chosen.files is None):
        parser.error("expected one of --share and --files")
    try:
        study = load_profile(chosen.profile)
        if chosen.share:
            sys.stdout.write(f"wrote {share(study, chosen.share, chosen.source)}\n")
            return 0
        pool = join(study, chosen.files)
        table = synthesis.score_verdicts(pool.per_query, pool.families, study.pairs, pool.seeds,
                                         **study.verdict.model_dump())
        sys.stdout.write(f"{pool.sources.to_string(index=False)}\n\n{verdict.sources(pool, study.seeds)}\n\n"
                         f"{verdict.verdicts(table)}\n{verdict.families(table)}\n")
    except (ValueError, OSError) as error:
        sys.stderr.write(f"hrsa: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
