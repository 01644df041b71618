"""Repositories of the Hugging Face hub, each pinned to the commit that a study saw first.

`main` moves: without a pin, two jobs of one study could load two models under one name. The commit is therefore asked
for once, recorded in `data/runs/<profile>/hub/` and part of every key; later jobs load that commit, and `moved` says
when the hub has gone on since.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from hrsa.study import store
from hrsa.study.errors import first_line
from hrsa.study.profile import Profile

Kind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
# What a model is loaded from. Pickles are left out, for they could run code; so are other frameworks' weights.
_WEIGHTS = "*.safetensors"
MODEL_FILES = (_WEIGHTS, "*.json", "*.jinja", "*.txt", "*.model")
_BRANCH = "main"


def is_on_hub(embedder: str) -> bool:
    """Whether a reference embedder of this name comes from the hub: no folder, and not one of those at hand."""
    return embedder not in ("minilm", "bm25") and not Path(embedder).is_dir()


def make_commit(profile: Profile, repository: str, revision: str | None = None, kind: Kind = "model") -> str:
    """The commit of a hub repository, 40 hexadecimal digits, asked for once per study and recorded.

    revision: branch, tag or commit; None is `main`. Raises ValueError when the hub has no such repository or revision,
    does not let this user in, or cannot be reached.
    """
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    record = _record(profile, repository, revision, kind)
    if not record.is_file():
        store.write_json(record, {"repository": repository, "kind": kind, "revision": revision or _BRANCH,
                                  "commit": _ask(repository, revision, kind),
                                  "resolved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    return str(store.read_json(record)["commit"])


def make_snapshot(profile: Profile, repository: str, revision: str | None = None) -> Path:
    """Folder of a hub model at its recorded commit, downloaded once; what is there already is not asked for again.

    Raises ValueError as `make_commit`, and for a model without safetensors.
    """
    from huggingface_hub import snapshot_download

    commit = make_commit(profile, repository, revision)
    with _told(repository, commit), _without_bars():
        folder = Path(snapshot_download(repository, revision=commit, allow_patterns=list(MODEL_FILES)))
    _check_weights(repository, commit, sorted(p.name for p in folder.iterdir()))
    return folder


def make_outline(profile: Profile, repository: str, revision: str | None = None) -> tuple[Path, int]:
    """Folder of a hub model without its weights, at its recorded commit, and the bytes of all that a study loads of it.

    Raises ValueError as `make_snapshot`.
    """
    from huggingface_hub import HfApi, snapshot_download

    commit = make_commit(profile, repository, revision)
    light = [pattern for pattern in MODEL_FILES if pattern != _WEIGHTS]
    with _told(repository, commit), _without_bars():
        folder = Path(snapshot_download(repository, revision=commit, allow_patterns=light))
        sizes = {entry.path: entry.size for entry in HfApi().list_repo_tree(repository, revision=commit, recursive=True)
                 if hasattr(entry, "size")}
    _check_weights(repository, commit, sorted(sizes))
    return folder, sum(size for name, size in sizes.items() if any(fnmatch(name, one) for one in MODEL_FILES))


def _check_weights(repository: str, commit: str, files: list[str]) -> None:
    """ValueError unless there are safetensors among a model's files."""
    if not any(fnmatch(name, _WEIGHTS) for name in files):
        raise ValueError(f"expected weights as safetensors in {repository} at {commit[:12]}, got {files}: pickled "
                         "weights can run code; take a revision that has safetensors, or convert the model and give "
                         "its folder")


def moved(profile: Profile) -> list[str]:
    """A sentence for every recorded branch or tag that stands at another commit today; needs the hub.

    A repository that cannot be asked is told as well: the study goes on with what it has.
    """
    told = []
    for file in sorted((store.RUNS / profile.name / "hub").glob("*.json")):
        known = store.read_json(file)
        try:
            today = _ask(known["repository"], known["revision"], known["kind"])
        except ValueError as error:
            told.append(f"{known['repository']}: whether it has moved could not be asked ({first_line(error)})")
            continue
        if today != known["commit"]:
            told.append(f"{known['repository']}: {known['revision']} has moved from {known['commit'][:12]} to "
                        f"{today[:12]} since {known['resolved']}; this study stays with the first. To take the second, "
                        f"remove data/runs/{profile.name}/hub/{file.name} or name it as revision in the profile")
    return told


def _record(profile: Profile, repository: str, revision: str | None, kind: Kind) -> Path:
    name = f"{kind}--{repository}--{revision or _BRANCH}".replace("/", "--")
    return store.RUNS / profile.name / "hub" / f"{name}.json"


def _ask(repository: str, revision: str | None, kind: Kind) -> str:
    from huggingface_hub import HfApi

    with _told(repository, revision or _BRANCH):
        commit = HfApi().repo_info(repository, revision=revision, repo_type=kind).sha
    if commit is None:
        raise ValueError(f"expected a commit for {repository} at {revision or _BRANCH}, got none: name one as revision")
    return commit


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """No bars of the hub's client: in a notebook they would stand on the page."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


@contextlib.contextmanager
def _told(repository: str, revision: str) -> Iterator[None]:
    """The hub's errors as ValueErrors that say what to do."""
    from huggingface_hub import errors

    def failed(got: str, remedy: str, error: Exception) -> ValueError:
        return ValueError(f"expected {repository} at {revision[:12]} on the hub, got {got} ({first_line(error)}): "
                          f"{remedy}")

    try:
        yield
    except errors.GatedRepoError as error:
        raise failed("a gated repository", "ask for access on its page, then log in with `hf auth login`",
                     error) from error
    except errors.RevisionNotFoundError as error:
        raise failed("no such revision", "correct `revision` in the profile", error) from error
    except errors.RepositoryNotFoundError as error:
        raise failed("no such repository, or a private one", "correct the name in the profile, or log in with `hf auth "
                     "login`", error) from error
    except errors.HfHubHTTPError as error:
        limited = error.response.status_code == 429
        raise failed("too many requests" if limited else f"status {error.response.status_code}",
                     "wait and run the same command again" + (", or log in for a higher limit" if limited else ""),
                     error) from error
    except (OSError, errors.LocalEntryNotFoundError) as error:
        raise failed("no answer", "connect to the hub and run the same command again, or download the repository "
                     "elsewhere and give its folder", error) from error
