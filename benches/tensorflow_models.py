"""Keras models with random weights that no optimizer folds away, for measurements and the demo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

APPLICATIONS = {
    "resnet50": ("ResNet50", 224),
    "mobilenet_v2": ("MobileNetV2", 224),
    "mobilenet_v3": ("MobileNetV3Large", 224),
    "efficientnet_b0": ("EfficientNetB0", 224),
    "inception_v3": ("InceptionV3", 299),
    "densenet121": ("DenseNet121", 224),
    "convnext_tiny": ("ConvNeXtTiny", 224),
    "nasnet_mobile": ("NASNetMobile", 224),
}


def randomize(model: Any, seed: int = 1) -> Any:
    """Draws every weight: kernels with the spread that keeps activations in range, scales and variances about 1."""
    random = np.random.default_rng(seed)
    values = []
    for weight in model.weights:
        shape, name = tuple(weight.shape), weight.path if hasattr(weight, "path") else weight.name
        if len(shape) > 1:
            fan_in = int(np.prod(shape[:-1])) if "depthwise" not in name else int(np.prod(shape[:2]))
            value = random.standard_normal(shape) * np.sqrt(2 / max(fan_in, 1))
        elif any(part in name for part in ("gamma", "variance", "scale")):
            value = random.uniform(0.6, 1.4, shape)
        else:
            value = random.uniform(-0.2, 0.2, shape)
        values.append(np.asarray(value, dtype=str(weight.dtype)))
    model.set_weights(values)
    return model


def tame(model: Any, inputs: dict[str, np.ndarray]) -> Any:
    """Scales the last layer so that its scores spread about 1: a saturated softmax would hide every error."""
    import keras

    last = model.layers[-1]
    if isinstance(last, keras.layers.Dense):
        features = np.asarray(keras.Model(model.input, last.input)(list(inputs.values())[0]))
        kernel, bias = last.get_weights()
        last.set_weights([kernel / max(float((features @ kernel).std()), 1e-6), bias])
    return model


def encoder(layers: int = 4, width: int = 256, heads: int = 4) -> Any:
    """A BERT-like encoder on tokens of any number."""
    import keras

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = keras.layers.LayerNormalization(epsilon=1e-6)(keras.layers.Embedding(1000, width)(tokens))
    for _ in range(layers):
        attended = keras.layers.MultiHeadAttention(heads, width // heads)(hidden, hidden)
        hidden = keras.layers.LayerNormalization(epsilon=1e-6)(hidden + attended)
        wide = keras.layers.Dense(4 * width, activation="gelu")(hidden)
        hidden = keras.layers.LayerNormalization(epsilon=1e-6)(hidden + keras.layers.Dense(width)(wide))
    return keras.Model(tokens, {"hidden": hidden})


def build(name: str) -> tuple[Any, Callable[[int], dict[str, np.ndarray]]]:
    """A model and its inputs for a batch."""
    import keras

    random = np.random.default_rng(2)
    if name == "encoder":
        model = randomize(encoder())
        return model, lambda batch: {"tokens": random.integers(0, 1000, (batch, 128)).astype(np.int32)}
    function, size = APPLICATIONS[name]
    model = randomize(getattr(keras.applications, function)(weights=None, input_shape=(size, size, 3)))
    key = model.input.name if hasattr(model.input, "name") else model.input_names[0]

    def sample(batch: int) -> dict[str, np.ndarray]:
        return {key: random.random((batch, size, size, 3), dtype=np.float32)}

    return tame(model, sample(1)), sample


MODELS = (*APPLICATIONS, "encoder")
