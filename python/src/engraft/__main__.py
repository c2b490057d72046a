"""Runs an unmodified program with Engraft: `python -m engraft [--option key=value] app.py arguments...`.

`python -m engraft convert saved_model_in saved_model_out` converts a model of TensorFlow instead, and
`python -m engraft explain saved_model` shows what would become of it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import sys

import engraft
from engraft import _inherit
from engraft._options import OptionError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engraft",
        usage="python -m engraft [-h] [--version] [--option KEY=VALUE] (app.py | -m module) [arguments...]",
        description="Runs a Python program whose onnxruntime sessions and TensorFlow graphs use Engraft, the hosts taking the rest.",
    )
    parser.add_argument("--version", action="version", version=f"engraft {engraft.__version__}")
    parser.add_argument(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an option of Engraft, as in --option min_accelerated_flops=0.95; may be repeated",
    )
    parser.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    parser.add_argument("program", help="a script, a folder or archive with a __main__.py, or with -m a module's name")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="the program's own arguments")
    return parser


def _enable(parser: argparse.ArgumentParser, options: dict[str, str]) -> None:
    """Enables Engraft in the hosts that are installed: in onnxruntime at once, which checks the options, and in TensorFlow, which
    takes seconds to import, once the program has imported it."""

    def enable(host: str) -> None:
        try:
            _inherit.enable(host, options)
        except OptionError as error:
            parser.error(str(error))

    installed = [host for host in _inherit.HOSTS if importlib.util.find_spec(host) is not None]
    if installed != ["tensorflow"]:
        enable("onnxruntime")
    if "tensorflow" in installed:
        _inherit.announce("tensorflow", options)
        _inherit.when_imported("tensorflow", lambda: enable("tensorflow"))


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("convert", "explain") and not os.path.exists(sys.argv[1]):
        # What TensorFlow prints while it is imported is of no use here.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        from engraft.tensorflow import _command

        _command.main(sys.argv[1], sys.argv[2:])
        return
    parser = _parser()
    arguments = parser.parse_args()
    options = {}
    for option in arguments.option:
        key, equals, value = option.partition("=")
        if not equals:
            parser.error(f"--option {option}: expected KEY=VALUE")
        options[key] = value
    if not arguments.module and not os.path.exists(arguments.program):
        parser.error(f"there is no file {arguments.program}")
    _enable(parser, options)
    sys.argv[1:] = arguments.arguments
    if arguments.module:
        # run_module puts the module's path into argv[0]; sys.path[0] is the current folder, as with `python -m`.
        runpy.run_module(arguments.program, run_name="__main__", alter_sys=True)
    else:
        sys.argv[0] = arguments.program
        if os.path.isfile(arguments.program) and arguments.program.endswith(".py"):
            sys.path[0] = os.path.dirname(os.path.abspath(arguments.program))
        runpy.run_path(arguments.program, run_name="__main__")


if __name__ == "__main__":
    main()
