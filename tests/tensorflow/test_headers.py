"""The declarations of bridges/tensorflow/src/sys.rs against the headers of the installed wheel, read with libclang."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from clang import cindex

SYS = Path(__file__).resolve().parents[2] / "bridges/tensorflow/src/sys.rs"

HEADERS = (
    "c_api.h",
    "ops.h",
    "kernels.h",
    "tf_buffer.h",
    "tf_status.h",
    "tf_tensor.h",
    "tf_tstring.h",
    "experimental/grappler/grappler.h",
)

PRIMITIVES = {
    "int": "c_int",
    "int32_t": "i32",
    "int64_t": "i64",
    "uint32_t": "u32",
    "unsigned int": "u32",
    "size_t": "usize",
    "long": "i64",
    "unsigned long": "usize",
    "char": "c_char",
    "unsigned char": "c_uchar",
    "void": "c_void",
}


@pytest.fixture(scope="module")
def headers() -> Any:
    """All declarations by name."""
    system = subprocess.run(["cc", "-print-file-name=include"], capture_output=True, text=True, check=True).stdout.strip()
    text = "".join(f'#include "tensorflow/c/{header}"\n' for header in HEADERS)
    arguments = ["-x", "c++", "-std=c++17", f"-I{tf.sysconfig.get_include()}", f"-isystem{system}"]
    unit = cindex.Index.create().parse("all.h", arguments, unsaved_files=[("all.h", text)])
    errors = [str(d) for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
    assert not errors, errors[:3]
    found: dict[str, Any] = {}

    def collect(cursor: Any) -> None:
        for child in cursor.get_children():
            if child.kind == cindex.CursorKind.LINKAGE_SPEC or child.kind == cindex.CursorKind.UNEXPOSED_DECL:
                collect(child)
            elif child.kind == cindex.CursorKind.ENUM_DECL:
                found.update({constant.spelling: constant for constant in child.get_children()})
            elif child.spelling and (child.is_definition() or child.spelling not in found):
                found[child.spelling] = child

    collect(unit.cursor)
    return found


def rust(ctype: Any) -> str:
    """A type of C as Rust spells it."""
    if ctype.kind == cindex.TypeKind.POINTER:
        pointee = ctype.get_pointee()
        if pointee.get_canonical().kind == cindex.TypeKind.FUNCTIONPROTO:
            function = pointee.get_canonical()
            arguments = ", ".join(rust(argument) for argument in function.argument_types())
            return f'Option<unsafe extern "C" fn({arguments}){result(function.get_result())}>'
        return f"*{'const' if pointee.is_const_qualified() else 'mut'} {rust(pointee)}"
    name = ctype.spelling.removeprefix("const ").removeprefix("struct ").removeprefix("enum ")
    # The library of TensorFlow's foundations has the same types under names of its own.
    return PRIMITIVES.get(name, re.sub("^TSL_", "TF_", name))


def result(ctype: Any) -> str:
    return "" if ctype.kind == cindex.TypeKind.VOID else f" -> {rust(ctype)}"


def squeezed(text: str) -> str:
    text = re.sub(r"//.*", "", text)
    # A macro of the headers'.
    text = re.sub(r"\s+", " ", text).replace("TF_Bool", "c_uchar")
    text = re.sub(r",? ?([)>])", r"\1", re.sub(r"([(<]) ", r"\1", text))
    return text.replace(" ->", "->").replace("->", " ->").replace(" - >", " ->").strip()


def declared_functions() -> dict[str, str]:
    body = SYS.read_text().split("functions! {", 1)[1]
    found = {}
    for name, arguments, outcome in re.findall(r"fn (TF_\w+)\(((?:[^()]|\([^()]*\))*)\)\s*(->[^;]+)?;", body):
        types = re.sub(r"(^|, ?|\( ?)\w+: ", r"\1", squeezed(arguments).rstrip(",").strip())
        found[name] = f"({types}){' ' + squeezed(outcome) if outcome else ''}"
    return found


def declared_structs() -> dict[str, list[tuple[str, str]]]:
    found = {}
    for name, body in re.findall(r"#\[repr\(C\)\](?:\n#\[.*?\])?\npub struct (T\w+) \{\n(.*?)\n\}", SYS.read_text(), re.S):
        fields = re.findall(r"pub (\w+): (.*?),(?: (?=pub )|$)", squeezed(body))
        found[name] = [(field, without_names(ctype)) for field, ctype in fields]
    return found


def without_names(text: str) -> str:
    """A function's type without the names of its arguments."""
    return squeezed(re.sub(r"(\(|, )\w+: ", r"\1", text)).replace("( ", "(").replace(")>", ")>")


def test_every_function_is_as_the_header_says(headers: Any) -> None:
    functions = declared_functions()
    assert len(functions) > 45
    for name, ours in functions.items():
        assert name in headers, f"{name} is gone"
        ctype = headers[name].type
        arguments = ", ".join(rust(argument) for argument in ctype.argument_types())
        assert ours == f"({arguments}){result(ctype.get_result())}", name


def test_every_struct_is_as_the_header_says(headers: Any) -> None:
    structs = declared_structs()
    assert {"TF_Buffer", "TF_Output", "TP_OptimizerConfigs", "TP_Optimizer", "TP_OptimizerRegistrationParams"} <= set(structs)
    for name, ours in structs.items():
        fields = [(field.spelling, rust(field.type)) for field in headers[name].type.get_canonical().get_fields()]
        # Members that came later are not read.
        assert ours == (fields[: len(ours)] if name == "TF_TString_View" else fields), name


def test_every_code_is_as_the_header_says(headers: Any) -> None:
    codes = dict(re.findall(r"pub const TF_(\w+): TF_Code = (\d+);", SYS.read_text()))
    assert codes
    for name, value in codes.items():
        assert int(value) == headers[f"TSL_{name}"].enum_value, name


def test_a_drift_is_noticed(headers: Any) -> None:
    """The comparison can fail: a declaration with an argument less is none of the header's."""
    ctype = headers["TF_GetInput"].type
    arguments = ", ".join(rust(argument) for argument in list(ctype.argument_types())[:-1])
    assert declared_functions()["TF_GetInput"] != f"({arguments})"
