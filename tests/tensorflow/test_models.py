"""Whole Keras models with random weights, frozen: how much of them is taken, in how many segments, and with what values."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer

L = keras.layers


def _feed_forward(x: Any, width: int, activation: str) -> Any:
    return L.Dense(width)(L.Dense(4 * width, activation=activation)(x))


def encoder(masked: bool) -> keras.Model:
    """Post-norm, as BERT; `masked` keeps padding out of the attention."""
    ids = keras.Input((None,), dtype="int32")
    x = L.Embedding(500, 64, mask_zero=masked)(ids)
    for _ in range(2):
        x = L.LayerNormalization(epsilon=1e-6)(x + L.MultiHeadAttention(4, 16)(x, x))
        x = L.LayerNormalization(epsilon=1e-6)(x + _feed_forward(x, 64, "gelu"))
    return keras.Model(ids, L.Dense(3, activation="softmax")(x[:, 0]))


def vision_transformer() -> keras.Model:
    image = keras.Input((32, 32, 3))
    x = L.Reshape((16, 64))(L.Conv2D(64, 8, strides=8)(image))
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(4, 16)(y, y)
        x = x + _feed_forward(L.LayerNormalization()(x), 64, "gelu")
    return keras.Model(image, L.Dense(5, activation="softmax")(L.GlobalAveragePooling1D()(x)))


def recurrent(kind: str, unrolled: bool = False) -> keras.Model:
    ids = keras.Input((12 if unrolled else None,), dtype="int32")
    layer = getattr(L, kind)
    x = L.Embedding(500, 24)(ids)
    x = layer(40, return_sequences=True, unroll=unrolled)(x)
    if not unrolled:
        x = L.Bidirectional(layer(32, return_sequences=True))(x)
    return keras.Model(ids, L.Dense(3, activation="softmax")(layer(40, unroll=unrolled)(x)))


def masked_recurrent() -> keras.Model:
    """All layers past the padding, whose states one hands to another, with the activations that are not usual as well."""
    ids = keras.Input((None,), dtype="int32")
    x = L.Embedding(500, 24, mask_zero=True)(ids)
    x = L.Bidirectional(L.LSTM(20, return_sequences=True))(x)
    x, h, c = L.LSTM(24, return_sequences=True, return_state=True, activation="relu", recurrent_activation="hard_sigmoid")(x)
    x = L.LSTM(24, return_sequences=True, go_backwards=True)(x, initial_state=[h, c])
    x = L.GRU(24, return_sequences=True)(x, initial_state=h)
    x = L.GRU(20, return_sequences=True, reset_after=False, activation="softsign")(x)
    x = L.SimpleRNN(18, return_sequences=True, activation=None)(x)
    return keras.Model(ids, L.Dense(3, activation="softmax")(L.GRU(16, use_bias=False)(x)))


def unmasked_recurrent() -> keras.Model:
    x = sequence = keras.Input((None, 12))
    x = L.GRU(20, return_sequences=True, reset_after=False)(x)
    x = L.SimpleRNN(18, return_sequences=True, use_bias=False)(x)
    x = L.LSTM(16, return_sequences=True, activation=None, recurrent_activation="softsign")(x)
    return keras.Model(sequence, L.Dense(3, activation="softmax")(L.GRU(16, reset_after=False, use_bias=False)(x)))


def u_net() -> keras.Model:
    x = image = keras.Input((None, None, 3))
    skips = []
    for channels in (8, 16):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(channels, 3, padding="same")(x)))
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = L.Conv2D(32, 3, padding="same", activation="swish")(x)
    for channels, skip in zip((16, 8), reversed(skips), strict=True):
        x = L.Conv2DTranspose(channels, 2, strides=2, padding="same")(x)
        x = L.Conv2D(channels, 3, padding="same", activation="relu")(L.Concatenate()([x, skip]))
    return keras.Model(image, L.Conv2D(2, 1, activation="sigmoid")(x))


def mobile_net(version: str) -> keras.Model:
    options = {"V2": {"alpha": 0.35}, "V3Small": {"include_preprocessing": False}}[version]
    build = getattr(keras.applications, f"MobileNet{version}")
    return build(weights=None, input_shape=(64, 64, 3), classes=10, **options)


MODELS: dict[str, Callable[[], keras.Model]] = {
    "encoder": lambda: encoder(False),
    "masked_encoder": lambda: encoder(True),
    "vision_transformer": vision_transformer,
    "lstm": lambda: recurrent("LSTM"),
    "gru": lambda: recurrent("GRU"),
    "lstm_unrolled": lambda: recurrent("LSTM", unrolled=True),
    "masked_recurrent": masked_recurrent,
    "unmasked_recurrent": unmasked_recurrent,
    "u_net": u_net,
    "mobile_net_v2": lambda: mobile_net("V2"),
    "mobile_net_v3": lambda: mobile_net("V3Small"),
}


def randomize(model: keras.Model) -> None:
    """Weights that no constant folding can remove: no zeros, no ones."""
    generator = np.random.default_rng(3)
    for weight in model.weights:
        if "variance" in weight.path:
            value = generator.uniform(0.5, 1.5, weight.shape)
        elif "gamma" in weight.path:
            value = generator.uniform(0.6, 1.3, weight.shape)
        elif len(weight.shape) == 1:
            value = generator.normal(0, 0.1, weight.shape)
        else:
            value = generator.normal(0, 1.2 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape)
        weight.assign(value.astype(np.float32))


def frozen(model: keras.Model) -> tuple[Any, list[str], list[str]]:
    """As converters freeze: variables become constants, constants fold."""
    specification = tf.TensorSpec(model.inputs[0].shape, model.inputs[0].dtype)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(specification)
    function = convert_variables_to_constants_v2(function, lower_control_flow=False)
    inputs, outputs = [t.name for t in function.inputs], [t.name for t in function.outputs]
    meta = tf.compat.v1.train.export_meta_graph(graph_def=function.graph.as_graph_def(), graph=function.graph)
    meta.collection_def["train_op"].node_list.value.extend(outputs)
    config = config_pb2.ConfigProto()
    config.graph_options.rewrite_options.optimizers.extend(["constfold", "dependency"])
    config.graph_options.rewrite_options.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta), inputs, outputs


@pytest.mark.parametrize("name", MODELS)
def test_is_taken_with_equal_values(name: str, tmp_path: Path) -> None:
    program = os.environ.get("ENGRAFT_CLI", "engraft")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}

    def engraft(*arguments: str) -> str:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    keras.backend.clear_session()
    model = MODELS[name]()
    randomize(model)
    definition, [given], [wanted] = frozen(model)
    path = tmp_path / "graph.pb"
    path.write_bytes(definition.SerializeToString())
    report = json.loads(engraft("explain", str(path), "--json"))["graphs"][0]
    report = report.get("placement") or report
    assert report["accelerated_flops"] >= 0.95
    assert len(report["segments"]) <= 4

    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(definition, name="")
    generator = np.random.default_rng(5)
    with tf.compat.v1.Session(graph=graph) as session:
        for batch in (1, 3, 8):
            sizes = [batch, *(size or 16 for size in model.inputs[0].shape[1:])]
            if model.inputs[0].dtype == "int32":
                values = generator.integers(1, 500, sizes).astype(np.int32)
                if name.startswith("masked"):
                    values[:, 11:] = 0
                    values[0, [0, 1, 5]] = 0
            else:
                values = generator.standard_normal(sizes).astype(np.float32)
            reference = session.run(wanted, {given: values})
            np.savez(tmp_path / "input.npz", **{given: values})
            np.savez(tmp_path / "reference.npz", **{wanted: reference})
            engraft("run", str(path), "--input", str(tmp_path / "input.npz"), "--reference", str(tmp_path / "reference.npz"))
