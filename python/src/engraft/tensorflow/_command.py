"""`python -m engraft convert`: a SavedModel in, a SavedModel out; `python -m engraft explain`: what would become of it."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from typing import Any

VERBS = {
    "convert": "Converts a TensorFlow SavedModel so that Engraft runs its supported parts.",
    "explain": "Shows which parts of a TensorFlow SavedModel Engraft would run, which not, and why.",
}


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m engraft {verb}", description=VERBS[verb])
    parser.add_argument("saved_model_in", help="the folder of the SavedModel")
    if verb == "convert":
        parser.add_argument("saved_model_out", help="the folder that receives the converted one")
    else:
        parser.add_argument("--json", action="store_true", help="print the placement reports of the signatures as JSON")
    parser.add_argument("--signature", help="this signature only; without it, all of them")
    parser.add_argument("--tag", action="append", help="a tag of the graph to load; may be repeated")
    parser.add_argument("--precision", help="FP32, TF32 or BF16; without it, the engine's default")
    parser.add_argument(
        "--option", "-o", metavar="KEY=VALUE", action="append", default=[], help="an option of Engraft; may be repeated"
    )
    parser.add_argument("--detailed", action="store_true", help="print the placement of every node")
    return parser


def main(verb: str, arguments: Sequence[str]) -> None:
    parser = _parser(verb)
    parsed = parser.parse_args(arguments)
    options: dict[str, Any] = {}
    for option in parsed.option:
        key, equals, value = option.partition("=")
        if not equals:
            parser.error(f"--option {option}: expected KEY=VALUE")
        options[key] = value
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        import engraft.tensorflow as host

        converter = host.Converter(
            parsed.saved_model_in,
            input_saved_model_tags=parsed.tag,
            input_saved_model_signature_key=parsed.signature,
            precision_mode=parsed.precision,
            minimum_segment_size=int(options.pop("min_subgraph_size", 3)),
            **options,
        )
        converter.convert()
        if verb == "convert":
            converter.save(parsed.saved_model_out)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    if verb == "explain" and parsed.json:
        print(json.dumps(converter.report.signatures, indent=2))
        return
    converter.summary(detailed=parsed.detailed)
    if verb == "convert":
        print(f"{parsed.saved_model_out}: load it after `import engraft.tensorflow`")
