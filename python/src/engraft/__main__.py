"""Runs an unmodified program with Engraft: `python -m engraft [--option key=value] app.py arguments...`.

`python -m engraft convert saved_model_in saved_model_out` converts a model of TensorFlow instead.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys

import engraft
import engraft.onnxruntime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engraft",
        usage="python -m engraft [-h] [--version] [--option KEY=VALUE] (app.py | -m module) [arguments...]",
        description="Runs a Python program whose onnxruntime sessions use Engraft, the CPU provider taking the rest.",
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


def main() -> None:
    if sys.argv[1:2] == ["convert"] and not os.path.exists("convert"):
        from engraft.tensorflow import _command

        _command.main(sys.argv[2:])
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
    try:
        engraft.onnxruntime.enable(**options)
    except engraft.onnxruntime.OptionError as error:
        parser.error(str(error))
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
