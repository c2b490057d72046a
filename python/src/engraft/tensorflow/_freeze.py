"""SavedModel signatures as frozen graphs, and such graphs as signatures again."""

from __future__ import annotations

import hashlib
import itertools
import os
from dataclasses import dataclass
from typing import Any

from engraft.tensorflow import _library
from engraft.tensorflow._library import OPERATOR

_WRITES = ("Assign", "ResourceApply", "ResourceScatter", "ResourceSparseApply", "ResourceStridedSliceAssign")
"""How the names of operators begin that write variables."""


_LARGE = 1 << 20
"""Bytes of a segment beyond which it is kept in a file."""


class FreezeError(RuntimeError):
    """Why a signature has to stay as it is."""


@dataclass
class Frozen:
    """A signature whose variables have become constants."""

    graph: bytes
    """A serialized GraphDef."""
    feeds: list[str]
    """Tensors of the arguments, then of what could not be frozen, such as the handles of tables."""
    fetches: list[str]
    captures: list[Any]
    """Values of the feeds that are no arguments."""


def export(model: Any, directory: str) -> None:
    """Writes a Keras model, a `tf.function` with an input signature or a concrete function as a SavedModel."""
    import tensorflow as tf

    if isinstance(model, tf.types.experimental.ConcreteFunction):
        function = model
    elif isinstance(model, tf.types.experimental.PolymorphicFunction):
        function = model.get_concrete_function()
    elif hasattr(model, "export"):
        model.export(directory, verbose=False)
        return
    else:
        tf.saved_model.save(model, directory)
        return
    names = list(function._arg_keywords)
    keys = _output_keys(function)

    def named(**arguments: Any) -> dict[str, Any]:
        outputs = tf.nest.flatten(function(*(arguments[name] for name in names)))
        return dict(zip(keys, outputs, strict=True))

    arguments = list(tf.nest.flatten(function.structured_input_signature))
    specs = {name: tf.TensorSpec(s.shape, s.dtype, name) for name, s in zip(names, arguments, strict=True)}
    module = tf.Module()
    module.function = tf.function(named, autograph=False)
    module.kept = [model, *function.variables]
    tf.saved_model.save(module, directory, signatures=module.function.get_concrete_function(**specs))


def _output_keys(function: Any) -> list[str]:
    outputs = function.structured_outputs
    if isinstance(outputs, dict) and len(outputs) == len(function.outputs):
        return sorted(outputs)
    return [f"output_{index}" for index in range(len(function.outputs))]


def freeze(function: Any) -> Frozen:
    """Freezes a signature, calls of functions replaced by their bodies and constants folded. Raises `FreezeError`."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    definition = function.graph.as_graph_def()
    if writing := sorted({node.op for node in _nodes(definition) if node.op.startswith(_WRITES)}):
        raise FreezeError(f"it writes variables ({', '.join(writing)})")
    if _must_compile(function.function_def) or _is_compiled(definition):
        raise FreezeError("it is compiled by XLA (jit_compile=True), which has no operators of others")
    try:
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    except Exception as error:
        raise FreezeError(f"its variables cannot be frozen: {error}") from error
    arguments = {tensor.name for tensor in function.inputs[: len(function._arg_keywords)]}
    captured = {tensor.name: value for value, tensor in function.graph.captures}
    captures = []
    for tensor in frozen.inputs:
        if tensor.name not in arguments:
            if tensor.name not in captured:
                raise FreezeError(f"nothing is known of its input {tensor.name}")
            captures.append(captured[tensor.name])
    return Frozen(
        graph=_fold(frozen),
        feeds=[tensor.name for tensor in frozen.inputs],
        fetches=[tensor.name for tensor in frozen.outputs],
        captures=captures,
    )


def _must_compile(definition: Any) -> bool:
    """Whether XLA compiles a node or function. Asking for an attribute that is not there would make an empty one."""
    return "_XlaMustCompile" in definition.attr and bool(definition.attr["_XlaMustCompile"].b)


def _is_compiled(definition: Any) -> bool:
    """Whether all that a graph computes is in functions that XLA compiles."""
    passive = ("Placeholder", "Const", "Identity", "IdentityN", "NoOp", "ReadVariableOp")
    functions = {function.signature.name: function for function in definition.library.function}

    def compiled(nodes: Any) -> bool:
        active = [node for node in nodes if node.op not in passive]
        return bool(active) and all(is_compiled_call(node) for node in active)

    def is_compiled_call(node: Any) -> bool:
        called = functions.get(node.attr["f"].func.name) if "f" in node.attr else None
        if called is None or node.op not in ("PartitionedCall", "StatefulPartitionedCall"):
            return False
        return _must_compile(node) or _must_compile(called) or compiled(called.node_def)

    return compiled(definition.node)


def _nodes(definition: Any) -> Any:
    yield from definition.node
    for function in definition.library.function:
        yield from function.node_def


def _fold(function: Any) -> bytes:
    """The function's graph with constants folded and what is not needed gone.

    Only these two optimizers: others move nodes past each other so that segments fall apart.
    """
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
    from tensorflow.python.grappler import tf_optimizer
    from tensorflow.python.training import saver

    meta_graph = saver.export_meta_graph(graph_def=function.graph.as_graph_def(), graph=function.graph)
    ends = meta_graph_pb2.CollectionDef()
    for tensor in [*function.inputs, *function.outputs]:
        ends.node_list.value.append(tensor.name)
    meta_graph.collection_def["train_op"].CopyFrom(ends)
    config = config_pb2.ConfigProto()
    rewrite = config.graph_options.rewrite_options
    rewrite.optimizers.extend(["constfold", "dependency"])
    rewrite.min_graph_nodes = -1
    rewrite.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.TWO
    rewrite.use_plugin_optimizers = rewriter_config_pb2.RewriterConfig.OFF
    return bytes(tf_optimizer.OptimizeGraph(config, meta_graph).SerializeToString())


def without_builds(graph: bytes) -> bytes:
    """The graph, whose segments must not build engines at run time."""
    from tensorflow.core.framework import graph_pb2

    definition = graph_pb2.GraphDef.FromString(graph)
    for node in _nodes(definition):
        if node.op == OPERATOR:
            node.attr["allow_build"].b = False
    return bytes(definition.SerializeToString())


def signature(original: Any, frozen: Frozen, graph: bytes, loaded: Any, folder: str) -> tuple[Any, list[Any]]:
    """A concrete function with the arguments and results of `original` that runs `graph`, and what has to be kept with it.

    Large segments go into files in `folder`, which become assets of the model.
    """
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2
    from tensorflow.python.eager import wrap_function

    definition = graph_pb2.GraphDef.FromString(graph)
    files = _move_out(definition, folder)
    _rename_functions(definition)
    assets = [tf.saved_model.Asset(path) for path in files.values()]
    feeds = [*frozen.feeds, *files]
    captures = [*frozen.captures, *(asset.asset_path for asset in assets)]
    run = wrap_function.function_from_graph_def(definition, feeds, frozen.fetches)
    # Arguments keep their tensors' names; freezing drops captures alone.
    names = dict(zip((tensor.name for tensor in original.inputs), original._arg_keywords, strict=False))
    keys = sorted(original.structured_outputs)
    shapes = {key: original.structured_outputs[key].shape for key in keys}

    def body(**arguments: Any) -> dict[str, Any]:
        captured = iter(captures)
        results = run(*(arguments[names[feed]] if feed in names else next(captured) for feed in feeds))
        results = results if isinstance(results, (list, tuple)) else [results]
        for key, result in zip(keys, results, strict=True):
            result.set_shape(shapes[key])
        return dict(zip(keys, results, strict=True))

    specs = original.structured_input_signature[1]
    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()}
    function = tf.function(body, autograph=False)
    return function.get_concrete_function(**specs), [function, *assets, *_resources(loaded, frozen.captures)]


def _move_out(definition: Any, folder: str) -> dict[str, str]:
    """Moves the content of large segments into files: graphs are copied often, and limited to 2 GB.

    Returns the files by the tensors that have to hold their names.
    """
    from tensorflow.core.framework import node_def_pb2, types_pb2

    functions = {function.signature.name: function for function in definition.library.function}
    files: dict[str, str] = {}
    moved: set[str] = set()
    for node in [node for node in definition.node if node.op == OPERATOR]:
        if len(node.attr["segment"].s) <= _LARGE:
            continue
        content = node_def_pb2.NodeDef()
        content.CopyFrom(node)
        native = [function.name for function in node.attr["native"].list.func]
        library = _Library(functions)
        for function in content.attr["native"].list.func:
            function.name = library.add(function.name)
        content.attr["native_library"].s = library.serialize()
        data = _library.share(content.SerializeToString(deterministic=True))
        path = os.path.join(folder, f"{hashlib.blake2b(data, digest_size=12).hexdigest()}.engraft")
        with open(path, "wb") as file:
            file.write(data)
        types = node.attr["Tin"].list.type
        name = definition.node.add(name=f"{node.name}_asset", op="Placeholder")
        name.attr["dtype"].type = types_pb2.DT_STRING
        name.attr["shape"].shape.SetInParent()
        # Control inputs come last.
        node.input.insert(len(types), name.name)
        node.attr["asset"].i = len(types)
        types.append(types_pb2.DT_STRING)
        node.attr["segment"].s = b""
        del node.attr["native"]
        moved.update(native)
        files[f"{name.name}:0"] = path
    kept = [function for function in definition.library.function if function.signature.name not in moved]
    del definition.library.function[:]
    definition.library.function.extend(kept)
    return files


class _Library:
    """Functions and all that they call, named after their contents: signatures that compute the same get equal files."""

    def __init__(self, functions: dict[str, Any]) -> None:
        self._functions = functions
        self._names: dict[str, str] = {}
        self._made: dict[str, Any] = {}

    def add(self, name: str) -> str:
        """The new name of a function, or the name of something else as it is."""
        if name not in self._functions or name in self._names:
            return self._names.get(name, name)
        # Whatever calls itself is called so still.
        self._names[name] = name
        function = type(self._functions[name])()
        function.CopyFrom(self._functions[name])
        for node in function.node_def:
            node.ClearField("experimental_debug_info")
            node.op = self.add(node.op)
            for value in node.attr.values():
                for called in [value.func] if value.HasField("func") else value.list.func:
                    called.name = self.add(called.name)
        content = self._serialized(function, "")
        if name.encode() not in content:
            self._names[name] = f"engraft_{hashlib.blake2b(content, digest_size=12).hexdigest()}"
        self._made[self._names[name]] = self._serialized(function, self._names[name])
        return self._names[name]

    def serialize(self) -> bytes:
        """A FunctionDefLibrary of what was added."""
        from tensorflow.core.framework import function_pb2

        library = function_pb2.FunctionDefLibrary()
        for name in sorted(self._made):
            library.function.add().ParseFromString(self._made[name])
        return bytes(library.SerializeToString(deterministic=True))

    @staticmethod
    def _serialized(function: Any, name: str) -> bytes:
        function.signature.name = name
        return bytes(function.SerializeToString(deterministic=True))


def _rename_functions(definition: Any) -> None:
    """Gives new names to functions that the process knows with other bodies: theirs are still used."""
    from tensorflow.python.eager import context

    known = context.context()
    taken = {function.signature.name for function in definition.library.function}
    renamed: dict[str, str] = {}
    for function in definition.library.function:
        name = function.signature.name
        if known.has_function(name) and known.get_function_def(name) != function:
            new = next(new for n in itertools.count() if not known.has_function(new := f"{name}_{n}") and new not in taken)
            taken.add(new)
            renamed[name] = function.signature.name = new
    if not renamed:
        return
    for node in _nodes(definition):
        node.op = renamed.get(node.op, node.op)
        for value in node.attr.values():
            for function in [value.func] if value.HasField("func") else value.list.func:
                function.name = renamed.get(function.name, function.name)


def _resources(loaded: Any, captures: list[Any]) -> list[Any]:
    """The objects of a loaded model, variables apart, that the captured values belong to."""
    if not captures:
        return []
    import tensorflow as tf
    from tensorflow.python.trackable import asset, resource

    kinds = (resource.CapturableResource, asset.Asset)
    return [item for item in tf.train.TrackableView(loaded).descendants() if isinstance(item, kinds)]
