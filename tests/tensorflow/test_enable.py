"""`engraft.tensorflow.enable`: graphs of unchanged programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from values import assert_same

import engraft.tensorflow
from engraft.tensorflow import OptionError

Enable = Callable[..., bool]
Counted = Callable[[], dict[str, int]]


def perceptron() -> Any:
    inputs = keras.Input((32,), name="x")
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(8, activation="softmax")(keras.layers.Dense(64, activation="relu")(hidden)))


def by_hand(model: Any, x: np.ndarray) -> np.ndarray:
    """The perceptron in numpy, at the weights that it has now."""
    w1, b1, w2, b2, w3, b3 = (np.asarray(w, np.float64) for w in model.get_weights())
    logits = np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)


def sample(batch: int) -> np.ndarray:
    return np.random.randn(batch, 32).astype(np.float32)


@pytest.fixture
def maximal(enabled: Enable) -> None:
    """On, with everything taken: what is small would not pay."""
    assert enabled(partition_policy="maximal")


@pytest.mark.usefixtures("maximal")
def test_functions(counted: Counted) -> None:
    weights = np.random.randn(32, 16).astype(np.float32)
    function = tf.function(lambda x: tf.nn.relu(tf.matmul(x, weights)) * 2.0)
    for batch in (1, 5):
        x = sample(batch)
        assert_same({"y": np.maximum(x @ weights, 0) * 2}, {"y": function(tf.constant(x))})
    counts = counted()
    assert counts["segments"] > 0 and counts["engine"] > 0 and counts["native"] == 0


@pytest.mark.usefixtures("maximal")
def test_keras_predict_and_call(counted: Counted) -> None:
    model = perceptron()
    for batch in (1, 3, 40):
        x = sample(batch)
        assert_same({"y": by_hand(model, x)}, {"y": model.predict(x, verbose=0)})
    counts = counted()
    assert counts["engine"] >= 3 and counts["native"] == 0


@pytest.mark.usefixtures("maximal")
def test_no_weight_is_ever_stale(counted: Counted) -> None:
    model = perceptron()
    model.compile("sgd", "mse")
    x, y = sample(64), np.random.rand(64, 8).astype(np.float32)
    for step in range(12):
        assert_same({"y": by_hand(model, x)}, {"y": model.predict(x, verbose=0)})
        if step % 3 == 0:
            model.set_weights([w + 0.1 * np.random.randn(*w.shape).astype(np.float32) for w in model.get_weights()])
        elif step % 3 == 1:
            model.fit(x, y, epochs=1, verbose=0)
        else:
            model.layers[1].kernel.assign_add(0.01 * np.ones((32, 64), np.float32))
    assert counted()["engine"] > 0


@pytest.mark.usefixtures("maximal")
def test_rows_that_are_updated_alone_are_noticed() -> None:
    table = tf.Variable(np.random.randn(32, 16).astype(np.float32))
    function = tf.function(lambda x: tf.nn.relu(tf.matmul(x, table)))
    x = sample(4)
    for row in range(6):
        assert_same({"y": np.maximum(x @ table.numpy(), 0)}, {"y": function(tf.constant(x))})
        table.scatter_update(tf.IndexedSlices(tf.ones([1, 16]) * row, tf.constant([row])))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_is_as_without(enabled: Enable, optimizer: str) -> None:
    x, y = sample(256), np.random.rand(256, 8).astype(np.float32)

    def losses() -> list[float]:
        keras.utils.set_random_seed(3)
        model = perceptron()
        model.compile(optimizer, "mse")
        return model.fit(x, y, epochs=4, batch_size=32, verbose=0, shuffle=False).history["loss"]

    plain = losses()
    assert enabled(partition_policy="maximal")
    np.testing.assert_allclose(losses(), plain, rtol=1e-3)
    assert plain[-1] < plain[0]


@pytest.mark.usefixtures("maximal")
def test_what_writes_other_variables_is_taken(counted: Counted) -> None:
    """Metrics are variables, too: evaluation writes them."""
    model = perceptron()
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = sample(64), np.random.rand(64, 8).astype(np.float32)
    for _ in range(2):
        results = model.evaluate(x, y, verbose=0, return_dict=True)
        error = by_hand(model, x).astype(np.float64) - y
        np.testing.assert_allclose(results["mae"], np.abs(error).mean(), rtol=1e-4)
        np.testing.assert_allclose(results["loss"], (error**2).mean(), rtol=1e-4)
        model.set_weights([w * 1.5 for w in model.get_weights()])
    counts = counted()
    assert counts["engine"] > 0 and counts["native"] == 0


@pytest.mark.usefixtures("maximal")
def test_gradients_are_those_of_the_original_nodes() -> None:
    weights = tf.Variable(np.random.randn(32, 4).astype(np.float32))
    x = tf.constant(sample(6))

    @tf.function
    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.nn.relu(tf.matmul(x, weights)))
        return tape.gradient(loss, weights)

    active = (x.numpy() @ weights.numpy() > 0).astype(np.float32)
    assert_same({"g": x.numpy().T @ active}, {"g": gradient(x)})


@pytest.mark.usefixtures("maximal")
def test_reloaded_models(tmp_path: Path, counted: Counted) -> None:
    model = perceptron()
    model.export(str(tmp_path / "saved"), verbose=False)
    signature = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    for batch in (1, 4):
        x = sample(batch)
        (result,) = signature(x=tf.constant(x)).values()
        assert_same({"y": by_hand(model, x)}, {"y": result})
    assert counted()["engine"] >= 2


@pytest.mark.usefixtures("maximal")
def test_converted_models_are_left_alone(tmp_path: Path) -> None:
    model = perceptron()
    converted = engraft.tensorflow.Converter(model=model, minimum_segment_size=1).convert()
    x = sample(3)
    (result,) = converted(x=tf.constant(x)).values()
    assert_same({"y": by_hand(model, x)}, {"y": result})


def test_disabling_leaves_graphs_alone(enabled: Enable, counted: Counted) -> None:
    assert enabled(partition_policy="maximal")
    engraft.tensorflow.disable()
    weights = np.random.randn(32, 16).astype(np.float32)
    tf.function(lambda x: tf.nn.relu(tf.matmul(x, weights)))(tf.constant(sample(2)))
    assert counted() == {"engine": 0, "native": 0, "segments": 0}


def test_small_graphs_do_not_pay(enabled: Enable, counted: Counted) -> None:
    assert enabled()
    function = tf.function(lambda x: x * 2.0 + 1.0)
    assert_same({"y": np.full(4, 3, np.float32)}, {"y": function(tf.ones([4]))})
    assert counted() == {"engine": 0, "native": 0, "segments": 0}


def test_unknown_options_are_refused(enabled: Enable) -> None:
    with pytest.raises(OptionError, match="did you mean 'min_subgraph_size'"):
        enabled(min_subgraph_sise=3)


def test_as_a_plugin_of_the_environment(fresh: Callable[..., str]) -> None:
    """Without a line in the program."""
    printed = fresh(
        """
        import numpy as np, tensorflow as tf
        w = np.random.randn(512, 512).astype("f4"); v = np.random.randn(512, 512).astype("f4")
        f = tf.function(lambda x: tf.nn.relu(tf.matmul(tf.nn.relu(tf.matmul(x, w)), v)))
        x = np.random.randn(64, 512).astype("f4")
        y = f(tf.constant(x)).numpy()
        reference = np.maximum(np.maximum(x @ w, 0) @ v, 0)
        assert np.abs(y - reference).max() < 1e-4 * np.abs(reference).max()
        import engraft.tensorflow._library as library
        print(library.counts())
        """,
        TF_PLUGGABLE_DEVICE_LIBRARY_PATH=engraft.tensorflow.get_library_path(),
    )
    assert "'engine': 1" in printed, printed
