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


def vision_transformer(layers: int = 6, width: int = 384, heads: int = 6) -> Any:
    """A ViT-like encoder of 16x16 patches of an image of 224x224."""
    import keras

    image = keras.Input((224, 224, 3), name="image")
    hidden = keras.layers.Reshape((196, width))(keras.layers.Conv2D(width, 16, strides=16)(image))
    for _ in range(layers):
        normal = keras.layers.LayerNormalization(epsilon=1e-6)(hidden)
        hidden = hidden + keras.layers.MultiHeadAttention(heads, width // heads)(normal, normal)
        wide = keras.layers.Dense(4 * width, activation="gelu")(keras.layers.LayerNormalization(epsilon=1e-6)(hidden))
        hidden = hidden + keras.layers.Dense(width)(wide)
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization(epsilon=1e-6)(hidden))
    return keras.Model(image, {"scores": keras.layers.Dense(1000)(hidden)})


def recurrent(kind: str) -> Any:
    """A text classifier: embeddings, of which 0 is padding, a layer in both directions, another one."""
    import keras

    layer = getattr(keras.layers, kind)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(2000, 128, mask_zero=True)(tokens)
    hidden = keras.layers.Bidirectional(layer(128, return_sequences=True))(hidden)
    return keras.Model(tokens, {"scores": keras.layers.Dense(20, activation="softmax")(layer(128)(hidden))})


def u_net(size: int = 128, channels: int = 32) -> Any:
    import keras

    layers = keras.layers
    hidden = image = keras.Input((size, size, 3), name="image")

    def block(x: Any, width: int) -> Any:
        for _ in range(2):
            x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(width, 3, padding="same")(x)))
        return x

    skips = []
    for depth in range(3):
        skips.append(block(hidden, channels << depth))
        hidden = layers.MaxPooling2D()(skips[-1])
    hidden = block(hidden, channels << 3)
    for depth in reversed(range(3)):
        hidden = layers.Conv2DTranspose(channels << depth, 2, strides=2)(hidden)
        hidden = block(layers.Concatenate()([hidden, skips[depth]]), channels << depth)
    return keras.Model(image, {"mask": layers.Conv2D(2, 1, activation="sigmoid")(hidden)})


NETWORKS: dict[str, Callable[[], Any]] = {
    "encoder": encoder,
    "vision_transformer": vision_transformer,
    "lstm": lambda: recurrent("LSTM"),
    "gru": lambda: recurrent("GRU"),
    "u_net": u_net,
}


def tokens(random: Any, batch: int, length: int = 128, vocabulary: int = 1000) -> np.ndarray:
    """Sequences of different lengths, padded with 0 at their ends."""
    ids = random.integers(1, vocabulary, (batch, length))
    lengths = random.integers(length // 2, length + 1, (batch, 1))
    return np.where(np.arange(length) < lengths, ids, 0).astype(np.int32)


def build(name: str) -> tuple[Any, Callable[[int], dict[str, np.ndarray]]]:
    """A model and its inputs for a batch."""
    import keras

    random = np.random.default_rng(2)
    if name in NETWORKS:
        model = randomize(NETWORKS[name]())
        shape = model.inputs[0].shape[1:]
        if None in shape:
            return model, lambda batch: {"tokens": tokens(random, batch)}
        return model, lambda batch: {"image": random.random((batch, *shape), dtype=np.float32)}
    function, size = APPLICATIONS[name]
    model = randomize(getattr(keras.applications, function)(weights=None, input_shape=(size, size, 3)))
    key = model.input.name if hasattr(model.input, "name") else model.input_names[0]

    def sample(batch: int) -> dict[str, np.ndarray]:
        return {key: random.random((batch, size, size, 3), dtype=np.float32)}

    return tame(model, sample(1)), sample


MODELS = (*APPLICATIONS, *NETWORKS)
