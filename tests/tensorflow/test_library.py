"""Where the library is loaded in the wrong place, it says so."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf

import engraft.tensorflow
from engraft.tensorflow import UnavailableError, _library

ASK = """
    import ctypes
    {before}
    library = ctypes.CDLL({path!r})
    library.engraft_tensorflow_error.restype = ctypes.c_char_p
    print(library.engraft_tensorflow_error().decode())
"""


def test_without_tensorflow(fresh: Callable[..., str]) -> None:
    told = fresh(ASK.format(before="", path=engraft.tensorflow.get_library_path()))
    assert "TensorFlow is not loaded in this process: import tensorflow" in told


def test_beside_an_old_tensorflow(fresh: Callable[..., str], tmp_path: Path) -> None:
    source, old = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text('const char *TF_Version(void) { return "2.17.1"; }')
    subprocess.run(["cc", "-shared", "-fPIC", "-o", old, source], check=True)
    before = f"ctypes.CDLL({str(old)!r}, ctypes.RTLD_GLOBAL)"
    told = fresh(ASK.format(before=before, path=engraft.tensorflow.get_library_path()))
    assert "needs TensorFlow 2.18 or later, this is 2.17.1" in told


def test_the_package_names_the_version_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf, "__version__", "2.17.1")
    with pytest.raises(UnavailableError, match=r"needs tensorflow 2\.18 or later, this is 2\.17\.1"):
        _library._tensorflow()


def test_a_program_without_tensorflow_goes_on(fresh: Callable[..., str]) -> None:
    """The package's other parts do not need TensorFlow."""
    told = fresh(
        """
        import sys
        sys.modules["tensorflow"] = None
        import engraft
        try:
            import engraft.tensorflow
        except ImportError as error:
            print(error)
        """
    )
    assert "pip install tensorflow" in told
