"""Engraft in TensorFlow: what TF-TRT did, on the CPU.

    from engraft.tensorflow import Converter

    converter = Converter("saved_model", precision_mode="FP32")
    converter.convert()
    converter.save("faster_model")                     # any program that imports engraft.tensorflow can load it

    import engraft.tensorflow

    engraft.tensorflow.enable()                        # tf.function, Keras, SavedModels: nothing else changes

Importing this module loads TensorFlow and registers the operator `EngraftSegment`, which converted models need. Options are
keyword arguments; their names and values are those of the documentation (docs/options.md).
"""

from engraft._options import OptionError
from engraft.tensorflow._converter import ConversionError, Converter
from engraft.tensorflow._enable import disable, enable
from engraft.tensorflow._library import EngraftWarning, UnavailableError, get_library_path, load
from engraft.tensorflow._report import Report
from engraft.tensorflow._trt import (
    DEFAULT_TRT_CONVERSION_PARAMS,
    TrtConversionParams,
    TrtGraphConverterV2,
    TrtPrecisionMode,
)

load()

__all__ = [
    "DEFAULT_TRT_CONVERSION_PARAMS",
    "ConversionError",
    "Converter",
    "EngraftWarning",
    "OptionError",
    "Report",
    "TrtConversionParams",
    "TrtGraphConverterV2",
    "TrtPrecisionMode",
    "UnavailableError",
    "disable",
    "enable",
    "get_library_path",
    "load",
]
