"""Engraft: optimized engine segments grafted into the graphs of ONNX Runtime and TensorFlow.

`engraft.onnxruntime` registers Engraft with ONNX Runtime; `python -m engraft app.py` runs a program with it.
`engraft.tensorflow` converts TensorFlow's models, and rewrites graphs as they run.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("engraft")
except PackageNotFoundError:  # run from a source tree
    __version__ = "0+unknown"
