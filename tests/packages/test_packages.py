"""Unmodified packages on top of ONNX Runtime: the same answers with Engraft, which computes most of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

OCR = """
import json
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rapidocr_onnxruntime import RapidOCR

image = Image.new("RGB", (640, 160), "white")
ImageDraw.Draw(image).text((20, 40), "Engraft 2026", "black", ImageFont.load_default(64))
result, _ = RapidOCR()(np.asarray(image))
print(json.dumps([text for _, text, _ in result]))
"""

MAGIKA = """
import json
from magika import Magika

samples = [b"def f(x):\\n    return x + 1\\n" * 20, b"#include <stdio.h>\\nint main(void) { return 0; }\\n" * 20, b'{"a": [1, 2]}' * 30]
print(json.dumps([r.output.label for r in Magika().identify_bytes_list(samples)] if hasattr(Magika, "identify_bytes_list")
      else [Magika().identify_bytes(s).output.label for s in samples]))
"""

SERVER = """
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from magika import Magika

magika = Magika()
samples = [(b"def f(x):\\n    return x + %d\\n" % i) * 20 for i in range(40)]
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(sorted({r.output.label for r in pool.map(magika.identify_bytes, samples)})))
"""


def run(program: Path, reports: Path | None) -> Any:
    command = [sys.executable, str(program)]
    if reports is not None:
        option = f"placement_report_path={reports}{os.sep}"
        command = [sys.executable, "-m", "engraft", "--option", option, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("code", "sessions", "expected"),
    [(OCR, 3, ["Engraft 2026"]), (MAGIKA, 1, ["python", "c", "json"]), (SERVER, 1, ["python"])],
    ids=["rapidocr", "magika", "magika in threads"],
)
def test_a_package(tmp_path: Path, code: str, sessions: int, expected: list[str]) -> None:
    program = tmp_path / "program.py"
    program.write_text(code)
    plain = run(program, None)
    assert plain == expected
    assert run(program, tmp_path / "reports") == plain
    reports = [json.loads(path.read_text()) for path in (tmp_path / "reports").iterdir()]
    assert len(reports) >= sessions
    assert min(report["accelerated_flops"] for report in reports) >= 0.95
