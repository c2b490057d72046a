"""PEP 517 backend: compiles the libraries of the hosts with cargo and packs them with the Python modules into a wheel.

It is in-tree and needs nothing but cargo, so that `pip install ./python` works offline once cargo has its crates. The
metadata is `[project]` of pyproject.toml; the version is the workspace's.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent
WORKSPACE = PROJECT.parent
LIBRARIES = {
    "engraft-onnxruntime": "libonnxruntime_providers_engraft.so",
    "engraft-tensorflow": "libengraft_tensorflow.so",
}
"""The library of each crate."""

LICENSES = ("LICENSE-MIT", "LICENSE-APACHE")


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Compiles, packs, and returns the wheel's file name."""
    libraries = _compile()
    name = f"engraft-{_version()}-py3-none-{_platform(libraries.values())}.whl"
    modules = PROJECT / "src"
    files = {path.relative_to(modules).as_posix(): path.read_bytes() for path in _modules()}
    files |= {f"engraft/{library}": content for library, content in libraries.items()}
    files |= _metadata(name)
    record = "".join(f"{path},{_digest(content)},{len(content)}\n" for path, content in files.items())
    record_path = f"{_dist_info()}/RECORD"
    files[record_path] = (record + f"{record_path},,\n").encode()
    with zipfile.ZipFile(Path(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            entry = zipfile.ZipInfo(path, _timestamp())
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path.endswith(".so") else 0o100644) << 16
            archive.writestr(entry, content)
    return name


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Writes the metadata alone, which needs no compilation."""
    for path, content in _metadata(f"engraft-{_version()}-py3-none-any.whl").items():
        target = Path(metadata_directory, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return _dist_info()


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Packs the sources of the whole workspace, which the wheel is compiled from."""
    base = f"engraft-{_version()}"
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=WORKSPACE, check=True, capture_output=True, text=True)
    name = f"{base}.tar.gz"
    with tarfile.open(Path(sdist_directory, name), "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path in filter(None, listing.stdout.split("\0")):
            archive.add(WORKSPACE / path, f"{base}/{path}", recursive=False)
        # The archive's root is the workspace's: there the backend lies one folder deeper.
        project = (PROJECT / "pyproject.toml").read_text()
        project = project.replace('backend-path = ["build_backend"]', 'backend-path = ["python/build_backend"]')
        for path, content in {"pyproject.toml": project, "PKG-INFO": _core_metadata()}.items():
            entry = tarfile.TarInfo(f"{base}/{path}")
            entry.size = len(content.encode())
            entry.mtime = int(time.time())
            archive.addfile(entry, io.BytesIO(content.encode()))
    return name


def _compile() -> dict[str, bytes]:
    """The libraries, compiled by cargo for this machine's own target."""
    command = ["cargo", "build", "--release", "--locked", "--message-format", "json-render-diagnostics"]
    for crate in LIBRARIES:
        command += ["--package", crate]
    try:
        build = subprocess.run(command, cwd=WORKSPACE, stdout=subprocess.PIPE, text=True, check=True)
    except FileNotFoundError:
        raise SystemExit("error: building engraft from source needs cargo; see https://rustup.rs") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: `{' '.join(command)}` failed with exit status {error.returncode}") from None
    found: dict[str, bytes] = {}
    for line in build.stdout.splitlines():
        message = json.loads(line)
        for file in message.get("filenames", ()) if message.get("reason") == "compiler-artifact" else ():
            if Path(file).name in LIBRARIES.values():
                found[Path(file).name] = Path(file).read_bytes()
    for crate, library in LIBRARIES.items():
        if library not in found:
            raise SystemExit(f"error: cargo built {crate}, but no {library}")
    return found


def _platform(libraries: Iterable[bytes]) -> str:
    """The platform tag: manylinux of the newest glibc version that the libraries' symbols ask for."""
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    minors = [int(minor) for library in libraries for minor in re.findall(rb"\0GLIBC_2\.(\d+)", library)]
    if not platform.startswith("linux_") or not minors:
        return platform
    return platform.replace("linux", f"manylinux_2_{max(17, *minors)}", 1)


def _modules() -> list[Path]:
    paths = (PROJECT / "src").rglob("*")
    return sorted(path for path in paths if path.suffix in (".py", ".pth") or path.name == "py.typed")


def _version() -> str:
    return tomllib.loads((WORKSPACE / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def _dist_info() -> str:
    return f"engraft-{_version()}.dist-info"


def _metadata(wheel: str) -> dict[str, bytes]:
    """The files of the dist-info folder but for RECORD."""
    tag = wheel.removesuffix(".whl").split("-", 2)[2]
    folder = _dist_info()
    files = {
        f"{folder}/METADATA": _core_metadata().encode(),
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nGenerator: engraft\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
    }
    return files | {f"{folder}/licenses/{name}": (WORKSPACE / name).read_bytes() for name in LICENSES}


def _core_metadata() -> str:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {project['name']}",
        f"Version: {_version()}",
        f"Summary: {project['description']}",
        f"Author: {', '.join(author['name'] for author in project['authors'])}",
        f"License-Expression: {project['license']}",
        *(f"License-File: {name}" for name in LICENSES),
        f"Keywords: {','.join(project['keywords'])}",
        *(f"Classifier: {classifier}" for classifier in project["classifiers"]),
        f"Requires-Python: {project['requires-python']}",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (PROJECT / project["readme"]).read_text()


def _digest(content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"sha256={digest}"


def _timestamp() -> tuple[int, int, int, int, int, int]:
    """The time stamped on every file: fixed, so that equal sources make equal wheels."""
    epoch = max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800)  # ZIP knows no time before 1980.
    return time.gmtime(epoch)[:6]


if sys.platform != "linux":
    raise SystemExit("error: engraft's wheel is built on Linux only")
