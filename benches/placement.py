"""What a placement report says, in the few figures that checks and tables need."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Placement:
    """Who runs a model: `share` of its FLOPs on Engraft (0..1), in `segments` segments."""

    share: float
    segments: int
    refused: dict[str, int]
    """How many nodes were refused, by reason."""

    @staticmethod
    def read(path: Path) -> Placement | None:
        """The report at `path`; None where none was written, which means that nothing was offered to Engraft."""
        if not path.exists():
            return None
        report = json.loads(path.read_text())
        refused = Counter(node["reason"] for node in report["nodes"] if node.get("reason"))
        return Placement(report["accelerated_flops"], len(report["segments"]), dict(refused.most_common()))
