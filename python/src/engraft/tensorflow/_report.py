"""The placement report of a conversion: which node runs where, and why not on Engraft."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Report:
    """Placement of all signatures that were converted."""

    signatures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The report of each signature, as docs/onnxruntime.md describes it (`placement_report_path`)."""
    kept: dict[str, str] = field(default_factory=dict)
    """Signatures that stay as they were, and why."""

    @property
    def accelerated_flops(self) -> float:
        """Share (0 to 1) of the FLOPs of all signatures that run on Engraft."""
        total = sum(report["flops"] for report in self.signatures.values())
        if total == 0:
            taken = [node["segment"] is not None for report in self.signatures.values() for node in report["nodes"]]
            return sum(taken) / len(taken) if taken else 0.0
        return sum(r["flops"] * r["accelerated_flops"] for r in self.signatures.values()) / total

    @property
    def segments(self) -> int:
        return sum(len(report["segments"]) for report in self.signatures.values())

    def reasons(self) -> list[tuple[str, str, int, float]]:
        """Operator, reason, number of nodes and share of the FLOPs of what stays with TensorFlow, the heaviest first."""
        counts: Counter[tuple[str, str]] = Counter()
        flops: Counter[tuple[str, str]] = Counter()
        total = sum(report["flops"] for report in self.signatures.values()) or 1.0
        for report in self.signatures.values():
            for node in report["nodes"]:
                if node["segment"] is None:
                    key = (node["op_type"], node.get("reason") or "")
                    counts[key] += 1
                    flops[key] += node["flops"] / total
        rows = [(op, reason, count, flops[op, reason]) for (op, reason), count in counts.items()]
        return sorted(rows, key=lambda row: (-row[3], -row[2], row[0]))

    def write(self, line_length: int, detailed: bool, print_fn: Callable[[str], None]) -> None:
        """Prints the report as a table, `detailed` with every node."""
        for key, report in self.signatures.items():
            print_fn("=" * line_length)
            share = report["accelerated_flops"]
            print_fn(f"signature {key}: {len(report['segments'])} segments, {share:.1%} of the FLOPs on Engraft"[:line_length])
            for segment in report["segments"]:
                print_fn(f"  {segment['name']}: {segment['nodes']} nodes, {segment['flops_share']:.1%} of the FLOPs"[:line_length])
            if detailed:
                for node in report["nodes"]:
                    place = node["segment"] or f"TensorFlow: {node.get('reason') or ''}"
                    print_fn(f"    {node['name']} ({node['op_type']}): {place}"[:line_length])
        for key, reason in self.kept.items():
            print_fn("=" * line_length)
            print_fn(f"signature {key} stays as it was: {reason}"[:line_length])
        if rows := self.reasons():
            print_fn("=" * line_length)
            print_fn("with TensorFlow:")
            for op, reason, count, share in rows:
                print_fn(f"  {count} x {op}, {share:.1%} of the FLOPs: {reason}"[:line_length])
        print_fn("=" * line_length)
