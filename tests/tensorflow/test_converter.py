"""`engraft.tensorflow.Converter`: what TF-TRT's converter did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from values import assert_same

from engraft.tensorflow import (
    ConversionError,
    Converter,
    EngraftWarning,
    OptionError,
    TrtConversionParams,
    TrtGraphConverterV2,
    TrtPrecisionMode,
)


def randomize(model: Any) -> Any:
    """Weights that no optimizer folds away."""
    model.set_weights([np.random.uniform(0.05, 0.3, w.shape).astype(w.dtype) * (-1) ** np.random.randint(0, 2, w.shape)
                       if w.ndim > 1 else np.random.uniform(0.5, 1.5, w.shape).astype(w.dtype)
                       for w in model.get_weights()])
    return model


def network() -> Any:
    """A small convolutional network with two outputs."""
    image = keras.Input((None, None, 3), name="image")
    hidden = image
    for channels in (8, 16):
        hidden = keras.layers.Conv2D(channels, 3, padding="same")(hidden)
        hidden = keras.layers.BatchNormalization()(hidden)
        hidden = keras.layers.ReLU()(hidden)
        hidden = keras.layers.MaxPooling2D()(hidden)
    pooled = keras.layers.GlobalAveragePooling2D()(hidden)
    scores = keras.layers.Dense(10, activation="softmax")(pooled)
    return randomize(keras.Model(image, {"scores": scores, "features": hidden}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("network") / "saved")
    network().export(directory, verbose=False)
    return directory


def images(batch: int, size: int = 16) -> np.ndarray:
    return np.random.rand(batch, size, size, 3).astype(np.float32)


@pytest.mark.parametrize("batch,size", [(1, 16), (3, 16), (8, 16), (2, 24), (1, 33)])
def test_results_and_signature(saved: str, tmp_path: Path, batch: int, size: int) -> None:
    converter = Converter(saved)
    converter.convert()
    assert converter.report.accelerated_flops > 0.95
    assert converter.report.segments <= 4 * len(converter.report.signatures)
    converter.save(tmp_path / "converted")
    before = tf.saved_model.load(saved).signatures
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures
    assert sorted(before) == sorted(after)
    x = tf.constant(images(batch, size))
    for key in before:
        assert before[key].structured_input_signature == after[key].structured_input_signature
        assert before[key].structured_outputs == after[key].structured_outputs
        assert_same(before[key](image=x), after[key](image=x))


def test_another_process_serves_what_one_saved(saved: str, tmp_path: Path, fresh: Callable[..., str]) -> None:
    converter = Converter(saved)
    converter.convert()
    converter.save(tmp_path / "converted")
    x = images(3)
    np.save(tmp_path / "x.npy", x)
    fresh(
        f"""
        import numpy as np, tensorflow as tf, engraft.tensorflow
        from engraft.tensorflow import _library
        model = tf.saved_model.load({str(tmp_path / "converted")!r})
        results = model.signatures["serving_default"](image=tf.constant(np.load({str(tmp_path / "x.npy")!r})))
        np.savez({str(tmp_path / "y.npz")!r}, **{{name: value.numpy() for name, value in results.items()}})
        counts = _library.counts()
        assert counts["engine"] > 0 and counts["native"] == 0, counts
        """
    )
    reference = tf.saved_model.load(saved).signatures["serving_default"](image=tf.constant(x))
    assert_same(reference, np.load(tmp_path / "y.npz"))


class Service(tf.Module):
    """Two signatures, several inputs and types, a table and an asset."""

    def __init__(self, vocabulary: str) -> None:
        super().__init__()
        self.weights = tf.Variable(np.random.randn(6, 4).astype(np.float32))
        words = tf.lookup.TextFileInitializer(
            vocabulary, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(words, -1)
        self.embedding = tf.Variable(np.random.randn(3, 6).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "words"), tf.TensorSpec([None, 6], tf.float32, "x")])
    def classify(self, words: Any, x: Any) -> Any:
        ids = self.table.lookup(words)
        rows = tf.gather(self.embedding, tf.maximum(ids, 0))
        logits = tf.nn.relu(tf.matmul(x + rows, self.weights))
        return {"probabilities": tf.nn.softmax(logits), "ids": ids, "lengths": tf.strings.length(words)}

    @tf.function(input_signature=[tf.TensorSpec([None, 6], tf.float16, "half"), tf.TensorSpec([None], tf.int32, "shift")])
    def scale(self, half: Any, shift: Any) -> Any:
        wide = tf.matmul(tf.cast(half, tf.float32), self.weights)
        return {"scaled": wide * tf.cast(shift, tf.float32)[:, None], "next": shift + 1}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("service")
    vocabulary = folder / "words.txt"
    vocabulary.write_text("red\ngreen\nblue\n")
    module = Service(str(vocabulary))
    tf.saved_model.save(module, str(folder / "saved"), signatures={"classify": module.classify, "scale": module.scale})
    vocabulary.unlink()
    return str(folder / "saved")


def test_every_signature_table_and_asset_is_kept(service: str, tmp_path: Path) -> None:
    converter = Converter(service, minimum_segment_size=1)
    converter.convert()
    assert sorted(converter.report.signatures) == ["classify", "scale"]
    converter.save(tmp_path / "converted")
    assert [path.name for path in (tmp_path / "converted/assets").iterdir()] == ["words.txt"]
    before = tf.saved_model.load(service).signatures
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures
    for batch in (0, 1, 5):
        words = tf.constant((["blue", "red", "pink"] * 2)[:batch], tf.string)
        x = tf.constant(np.random.randn(batch, 6).astype(np.float32))
        assert_same(before["classify"](words=words, x=x), after["classify"](words=words, x=x))
        half, shift = tf.cast(x, tf.float16), tf.range(batch)
        assert_same(before["scale"](half=half, shift=shift), after["scale"](half=half, shift=shift))


def test_one_signature_of_several(service: str, tmp_path: Path) -> None:
    converter = Converter(service, input_saved_model_signature_key="scale", minimum_segment_size=1)
    converter.convert()
    assert sorted(converter.report.signatures) == ["scale"]
    converter.save(tmp_path / "converted")
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures
    before = tf.saved_model.load(service).signatures
    arguments = {"words": tf.constant(["green"]), "x": tf.ones([1, 6])}
    assert_same(before["classify"](**arguments), after["classify"](**arguments))


def test_signatures_that_write_variables_stay(tmp_path: Path) -> None:
    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def step(self, x: Any) -> Any:
            return {"sum": x + self.count.assign_add(1.0)}

    module = Counter()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.step)
    converter = Converter(str(tmp_path / "saved"))
    with pytest.warns(EngraftWarning, match="writes variables"):
        converter.convert()
    converter.save(tmp_path / "converted")
    step = tf.saved_model.load(str(tmp_path / "converted")).signatures["serving_default"]
    assert [float(step(x=tf.zeros([1]))["sum"][0]) for _ in range(3)] == [1.0, 2.0, 3.0]


def test_what_xla_compiles_stays(tmp_path: Path) -> None:
    """A signature as a whole, or a function that it calls; what is around such a function is taken."""
    weights = tf.Variable(np.random.randn(64, 64).astype(np.float32))
    compiled = tf.function(lambda x: tf.nn.relu(tf.matmul(x, weights)), jit_compile=True)
    specification = tf.TensorSpec([None, 64], tf.float32, "x")

    class Both(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = weights

        @tf.function(input_signature=[specification], jit_compile=True)
        def whole(self, x: Any) -> Any:
            return {"y": compiled(x) + 1.0}

        @tf.function(input_signature=[specification])
        def around(self, x: Any) -> Any:
            return {"y": tf.nn.softmax(tf.matmul(compiled(tf.matmul(x, self.weights)), self.weights))}

    module = Both()
    signatures = {"whole": module.whole, "around": module.around}
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=signatures)
    converter = Converter(str(tmp_path / "saved"), minimum_segment_size=1, partition_policy="maximal")
    with pytest.warns(EngraftWarning, match="signature 'whole' stays as it was: it is compiled by XLA"):
        converter.convert()
    placed = {node["op_type"] for node in converter.report.signatures["around"]["nodes"] if node["segment"]}
    assert {"MatMul", "Softmax"} <= placed
    converter.save(tmp_path / "converted")
    before = tf.saved_model.load(str(tmp_path / "saved")).signatures
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures
    x = tf.constant(np.random.randn(5, 64).astype(np.float32) / 8)
    for key in signatures:
        assert_same(before[key](x=x), after[key](x=x))


def test_gradients_through_a_converted_model_are_refused_in_words(saved: str) -> None:
    converted = Converter(saved).convert()
    x = tf.constant(images(1))
    with pytest.raises(LookupError, match="train the original model"), tf.GradientTape() as tape:
        tape.watch(x)
        tape.gradient(converted(image=x)["scores"], x)


def test_text_loops_and_suppression_beside_segments(tmp_path: Path) -> None:
    """What stays with TensorFlow keeps working around the segments."""

    class Mixed(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = tf.Variable(np.random.randn(8, 8).astype(np.float32))

        @tf.function(input_signature=[
            tf.TensorSpec([None, 8], tf.float32, "x"), tf.TensorSpec([None], tf.string, "text"), tf.TensorSpec([], tf.int32, "n"),
        ])
        def run(self, x: Any, text: Any, n: Any) -> Any:
            hidden = tf.nn.relu(tf.matmul(x, self.weights))
            state, index = hidden, 0
            while index < n:
                state = tf.tanh(tf.matmul(state, self.weights))
                index += 1
            boxes = tf.abs(hidden[:, :4])
            chosen = tf.image.non_max_suppression(boxes, hidden[:, 4], 10, 0.5)
            return {"state": state, "chosen": chosen, "words": tf.strings.upper(text), "hidden": hidden}

    module = Mixed()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.run)
    converter = Converter(str(tmp_path / "saved"), minimum_segment_size=1)
    converter.convert()
    assert converter.report.segments >= 1
    converter.save(tmp_path / "converted")
    before = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures["serving_default"]
    for n in (0, 3):
        arguments = {"x": tf.constant(np.random.randn(6, 8).astype(np.float32)), "text": tf.constant(["a", "b"]), "n": tf.constant(n)}
        assert_same(before(**arguments), after(**arguments))


def test_dynamic_sequence_lengths() -> None:
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(50, 32)(tokens)
    hidden = keras.layers.LayerNormalization()(hidden + keras.layers.MultiHeadAttention(4, 8)(hidden, hidden))
    model = randomize(keras.Model(tokens, {"y": keras.layers.Dense(7)(hidden)}))
    converter = Converter(model=model, minimum_segment_size=1)
    converted = converter.convert()
    for batch, length in ((1, 5), (3, 17), (2, 1)):
        x = np.random.randint(0, 50, (batch, length)).astype(np.int32)
        reference = {name: value.numpy() for name, value in model(x).items()}
        assert_same(reference, converted(tokens=tf.constant(x)))


def test_keras_models_and_functions_are_taken() -> None:
    x = images(2)
    model = network()
    reference = {name: value.numpy() for name, value in model(x, training=False).items()}
    assert_same(reference, Converter(model=model).convert()(image=tf.constant(x)))
    weights = tf.Variable(np.random.randn(4, 3).astype(np.float32))
    function = tf.function(lambda x: tf.nn.relu(tf.matmul(x, weights)))
    concrete = function.get_concrete_function(tf.TensorSpec([None, 4], tf.float32, "x"))
    given = np.random.randn(5, 4).astype(np.float32)
    converted = Converter(model=concrete, minimum_segment_size=1).convert()
    assert_same({"output_0": concrete(tf.constant(given))}, converted(x=tf.constant(given)))


def test_code_for_tf_trt_works(saved: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = TrtConversionParams(precision_mode=TrtPrecisionMode.FP32, maximum_cached_engines=16)
    converter = TrtGraphConverterV2(
        input_saved_model_dir=saved,
        input_saved_model_signature_key="serving_default",
        use_dynamic_shape=True,
        dynamic_shape_profile_strategy="Optimal",
        conversion_params=parameters,
    )
    converter.convert()
    converter.build(input_fn=lambda: ([images(batch)] for batch in (1, 8)))
    converter.summary(line_length=100, detailed=True)
    converter.save(str(tmp_path / "converted"))
    printed = capsys.readouterr().out
    assert "signature serving_default" in printed and "Conv2D" in printed
    assert max(len(line) for line in printed.splitlines()) <= 100


def test_engines_of_another_process_are_used(saved: str, tmp_path: Path, fresh: Callable[..., str]) -> None:
    """`allow_build_at_runtime=False`: what was built is used, and the original nodes run where nothing was."""
    converter = Converter(saved, allow_build_at_runtime=False)
    converter.convert()
    converter.save(tmp_path / "converted")
    program = f"""
        import numpy as np, tensorflow as tf, engraft.tensorflow
        from engraft.tensorflow import _library
        model = tf.saved_model.load({str(tmp_path / "converted")!r})
        model.signatures["serving_default"](image=tf.ones([1, 16, 16, 3]))
        print(_library.counts())
    """
    counts = fresh(program, ENGRAFT_CACHE_DIR=str(tmp_path / "empty"))
    assert "'engine': 0" in counts and "left to TensorFlow's own kernels" in counts


def test_precision_modes(saved: str) -> None:
    for mode in ("FP16", "INT8"):
        with pytest.warns(EngraftWarning, match="more exact"):
            Converter(saved, precision_mode=mode)
    with pytest.raises(ValueError, match="none of FP32"):
        Converter(saved, precision_mode="FP8")
    converted = Converter(saved, precision_mode="BF16").convert()
    x = tf.constant(images(1))
    assert_same(tf.saved_model.load(saved).signatures["serving_default"](image=x), converted(image=x), tolerance=2e-2)


def test_half_precision_models_are_no_less_exact() -> None:
    """Keras's `mixed_float16`: variables of single precision, converted to half at every call."""
    float32 = keras.Sequential([keras.Input((12, 12, 3), name="image")])
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        half = keras.Sequential([keras.Input((12, 12, 3), name="image")])
        layers = [
            lambda: keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.BatchNormalization,
            lambda: keras.layers.DepthwiseConv2D(3),
            keras.layers.GlobalAveragePooling2D,
            lambda: keras.layers.Dense(10, dtype="float32"),
        ]
        for layer in layers:
            half.add(layer())
        keras.mixed_precision.set_global_policy("float32")
        for layer in layers:
            float32.add(layer())
    finally:
        keras.mixed_precision.set_global_policy("float32")
    randomize(half)
    float32.set_weights(half.get_weights())
    x = images(4, 12)
    truth = float32(x).numpy()
    converter = Converter(model=half, minimum_segment_size=1, partition_policy="maximal")
    (converted,) = converter.convert()(image=tf.constant(x)).values()
    assert converter.report.accelerated_flops > 0.95
    original = half(x).numpy()
    distance = lambda y: np.abs(np.asarray(y) - truth).max() / np.abs(truth).max()  # noqa: E731
    assert converted.dtype == tf.float32
    assert distance(converted) <= max(1.5 * distance(original), 2e-3)


def test_models_of_simulated_integers_keep_their_steps() -> None:
    """Quantized as `FakeQuant*` write it: results lie on the same grid, neighbours where a sum falls between two of its points."""
    filters = tf.constant(np.random.uniform(-1, 1, (3, 3, 3, 8)).astype(np.float32))
    step = 16 / 255

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32, "image")])
    def quantized(image: Any) -> Any:
        x = tf.quantization.fake_quant_with_min_max_args(image, 0, 1)
        w = tf.quantization.fake_quant_with_min_max_vars_per_channel(filters, -tf.ones([8]), tf.ones([8]), narrow_range=True)
        y = tf.nn.relu(tf.nn.conv2d(x, w, 1, "SAME"))
        return {"y": tf.quantization.fake_quant_with_min_max_vars(y, 0.0, 255 * step)}

    converter = Converter(model=quantized, minimum_segment_size=1, partition_policy="maximal")
    converted = converter.convert()
    assert converter.report.accelerated_flops > 0.95
    x = tf.constant(images(3, 12))
    difference = np.abs(converted(image=x)["y"].numpy() - quantized(x)["y"].numpy())
    assert difference.max() <= 1.01 * step
    assert (difference > 1e-4).mean() < 1e-3


def test_strictness_and_reports(saved: str, tmp_path: Path) -> None:
    Converter(saved, min_accelerated_flops="90%", placement_report_path=tmp_path / "report.json").convert()
    report = json.loads((tmp_path / "report.json").read_text())["serving_default"]
    assert {node["op_type"] for node in report["nodes"]} >= {"Conv2D", "MaxPool"}
    with pytest.raises(ConversionError, match="min_accelerated_flops asks for 0.9"):
        Converter(saved, min_accelerated_flops=0.9, op_types_to_exclude=["tf:Conv2D"]).convert()


@pytest.mark.parametrize("build", [True, False], ids=["engine", "native"])
def test_large_segments_are_assets(tmp_path: Path, fresh: Callable[..., str], build: bool) -> None:
    """The model may be moved, is small without its assets, and carries its original nodes there as well."""
    inputs = keras.Input((8, 8, 16), name="x")
    hidden = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(inputs)
    hidden = keras.layers.DepthwiseConv2D(3, depth_multiplier=2)(hidden)
    hidden = keras.layers.Conv2DTranspose(32, 2, strides=2)(hidden)
    hidden = keras.layers.Flatten()(keras.layers.AveragePooling2D(3)(hidden))
    model = randomize(keras.Model(inputs, {"y": keras.layers.Dense(1300)(hidden)}))
    converter = Converter(model=model, allow_build_at_runtime=build)
    converted = converter.convert()
    x = np.random.randn(5, 8, 8, 16).astype(np.float32)
    reference = {name: value.numpy() for name, value in model(x).items()}
    if build:
        assert_same(reference, converted(x=tf.constant(x)))
    converter.save(tmp_path / "converted")
    moved = (tmp_path / "converted").rename(tmp_path / "moved")
    # One file for the signatures of equal content, and weights stand in it once.
    (asset,) = (moved / "assets").iterdir()
    weights = 4 * model.count_params()
    assert weights < asset.stat().st_size < 1.1 * weights and (moved / "saved_model.pb").stat().st_size < 1 << 20
    np.save(tmp_path / "x.npy", x)
    printed = fresh(
        f"""
        import numpy as np, tensorflow as tf, engraft.tensorflow
        from engraft.tensorflow import _library
        model = tf.saved_model.load({str(moved)!r})
        for _ in range(2):
            results = model.signatures["serving_default"](x=tf.constant(np.load({str(tmp_path / "x.npy")!r})))
        np.savez({str(tmp_path / "y.npz")!r}, **{{name: value.numpy() for name, value in results.items()}})
        print(_library.counts())
        """,
        ENGRAFT_CACHE_DIR=str(tmp_path / "cache"),
    )
    assert ("'engine': 2, 'native': 0" if build else "'engine': 0, 'native': 2") in printed
    assert_same(reference, np.load(tmp_path / "y.npz"))


def test_weights_of_loops_are_stored_once(tmp_path: Path) -> None:
    """Gates stand in another order than the engine's, and loops call functions of other names in each signature."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(500, 64, mask_zero=True)(tokens)
    model = randomize(keras.Model(tokens, {"y": keras.layers.Dense(5)(keras.layers.LSTM(256)(hidden))}))
    converter = Converter(model=model)
    converter.convert()
    assert converter.report.accelerated_flops > 0.95
    converter.save(tmp_path / "converted")
    (asset,) = (tmp_path / "converted" / "assets").iterdir()
    assert asset.stat().st_size < 1.2 * 4 * model.count_params()
    served = tf.saved_model.load(str(tmp_path / "converted")).signatures["serving_default"]
    x = np.random.randint(1, 500, (3, 9)).astype(np.int32)
    x[0, 6:], x[1, :2] = 0, 0
    assert_same({"y": model(x)["y"].numpy()}, served(tokens=tf.constant(x)))


COMMANDS = [[sys.executable, "-m", "engraft"], *([[os.environ["ENGRAFT_CLI"]]] if "ENGRAFT_CLI" in os.environ else [])]
"""The wheel's command, and `engraft`, which hands SavedModels over to it."""


@pytest.mark.parametrize("program", COMMANDS, ids=lambda program: Path(program[0]).name)
def test_the_command(program: list[str], saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAFT_PYTHON", sys.executable)
    command = [*program, "convert", saved, str(tmp_path / "converted")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "signature serving_default: " in done.stdout, done.stderr
    x = tf.constant(images(2))
    after = tf.saved_model.load(str(tmp_path / "converted")).signatures["serving_default"]
    assert_same(tf.saved_model.load(saved).signatures["serving_default"](image=x), after(image=x))
    done = subprocess.run([*command[:-2], str(tmp_path / "nowhere"), "out"], capture_output=True, text=True)
    assert done.returncode == 1 and "error: " in done.stderr and "nowhere" in done.stderr


@pytest.mark.parametrize("program", COMMANDS, ids=lambda program: Path(program[0]).name)
def test_explaining_a_model(program: list[str], saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGRAFT_PYTHON", sys.executable)

    def explained(*arguments: str) -> str:
        done = subprocess.run([*program, "explain", saved, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    printed = explained("--option", "op_types_to_exclude=tf:MaxPool")
    assert "signature serving_default: " in printed and "MaxPool" in printed and "op_types_to_exclude" in printed
    nodes = json.loads(explained("--json"))["serving_default"]["nodes"]
    assert all(node["segment"] for node in nodes if node["op_type"] == "Conv2D")


def test_little_acceleration_is_warned_of(tmp_path: Path) -> None:
    function = tf.function(lambda x: tf.linalg.inv(x), input_signature=[tf.TensorSpec([None, 4, 4], tf.float32, "x")])
    with pytest.warns(EngraftWarning, match="run on Engraft"):
        Converter(model=function).convert()


def test_errors_say_what_is_wrong(saved: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="either"):
        Converter()
    with pytest.raises(ConversionError, match="no signature 'other', but serv"):
        Converter(saved, input_saved_model_signature_key="other").convert()
    with pytest.raises(OptionError, match="did you mean 'builder_optimization_level'"):
        Converter(saved, builder_optimisation_level=3).convert()
    with pytest.raises(RuntimeError, match="convert"):
        Converter(saved).save(tmp_path / "converted")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Converter(saved).convert()
