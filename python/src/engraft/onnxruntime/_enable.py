"""Making every session of a process use Engraft."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import threading
import warnings
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engraft import _inherit
from engraft.onnxruntime import _provider
from engraft.onnxruntime._library import get_ep_name
from engraft._options import OptionError, to_strings

_HOST_PROVIDERS = {"CPUExecutionProvider", "AzureExecutionProvider"}
"""What every CPU build of ONNX Runtime lists: asking for these is asking for no accelerator."""

_PROBE = (
    b"\x08\x08:;\n\x10\n\x01x\x12\x01y\"\x08Identity\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01"
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)
"""A model of one Identity, opset 17."""

_WITHOUT_EFFECT_ON_PROBES = {"min_accelerated_flops", "placement_report_path", "dump_subgraphs"}
"""Options that would refuse the probe, or leave traces of it."""


class EngraftWarning(RuntimeWarning):
    """Engraft could not be used, and the program goes on without it."""


@dataclass
class _State:
    """What `enable` asked for; `options` is None while Engraft is not to be used."""

    options: dict[str, str] | None = None
    prepared: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    """Session options that Engraft was added to here."""
    sessions: itertools.count[int] = field(default_factory=itertools.count)


_state = _State()
_lock = threading.RLock()


def enable(**options: Any) -> bool:
    """Makes every later `onnxruntime.InferenceSession` of this process use Engraft, the CPU provider taking the rest.

    It holds for sessions that name no providers or only the CPU's; others (CUDA, ...) and session options that the
    program gave providers itself are left alone. The class may have been imported by name or subclassed before.

    Processes that this one starts do the same, forked and spawned ones alike (see `engraft._inherit`).

    Options that Engraft does not take raise `OptionError`. Beyond the documented values, `placement_report_path` may
    name a folder (an existing one, or with a trailing slash): each session then writes a file of its own there.

    Where Engraft cannot be used (no onnxruntime, or an old one), an `EngraftWarning` says why, the program runs on
    plainly, and the result is False. A session that cannot be created with Engraft is created without it, also with
    a warning, unless `min_accelerated_flops` demands Engraft.
    """
    texts = to_strings(options)
    try:
        _provider.register()
        _check(texts)
    except _provider.UnavailableError as error:
        warnings.warn(f"running without Engraft: {error}", EngraftWarning, stacklevel=2)
        return False
    import onnxruntime

    with _lock:
        _state.options = texts
        _inherit.announce("onnxruntime", texts)
        session = onnxruntime.InferenceSession
        if not hasattr(session.__init__, "_engraft_original"):
            session.__init__ = _with_engraft(session.__init__)
    return True


def disable() -> None:
    """Makes later sessions plain again; those that exist keep what they have."""
    with _lock:
        _state.options = None
        _inherit.withdraw("onnxruntime")


def _check(options: dict[str, str]) -> None:
    """Lets the provider itself judge the options, by a session that does nothing."""
    if not options:
        return
    effective = {key: value for key, value in options.items() if key not in _WITHOUT_EFFECT_ON_PROBES}
    try:
        _probe(effective)
        if "min_accelerated_flops" in options:
            # Taken whole, the probe meets any share.
            share = {"min_accelerated_flops": options["min_accelerated_flops"]}
            _probe(share | {"partition_policy": "maximal", "min_subgraph_size": "1"})
    except Exception as error:
        try:
            _probe({})
        except Exception as without_options:
            raise _provider.UnavailableError(str(without_options)) from without_options
        # The host puts its own words before the provider's.
        raise OptionError(str(error).rpartition(f"{get_ep_name()}: ")[2].strip()) from error


def _probe(options: dict[str, str]) -> None:
    import onnxruntime

    session_options = onnxruntime.SessionOptions()
    session_options.log_severity_level = 4
    _provider.add_to(session_options, **options)
    onnxruntime.InferenceSession(_PROBE, session_options, enable_fallback=0)


def _with_engraft(original: Any) -> Any:
    """`InferenceSession.__init__` that puts Engraft first in line where nothing speaks against it."""
    signature = inspect.signature(original)

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        options = _state.options
        try:
            arguments = signature.bind(self, *args, **kwargs).arguments
        except TypeError:
            options, arguments = None, {}
        session_options = arguments.get("sess_options")
        if options is None or not _is_plain(arguments.get("providers"), session_options):
            return original(self, *args, **kwargs)
        extra = dict(arguments.get("kwargs", {}))
        model = arguments["path_or_bytes"]
        try:
            prepared = _prepared(session_options, options, model)
            # ONNX Runtime's own fallback would hide a failure, and print; it is put back for later runs.
            original(self, model, prepared, **{**extra, "enable_fallback": 0})
        except Exception as error:
            if "min_accelerated_flops" in options:
                raise
            _create_plainly(original, self, args, kwargs, error)
        else:
            if int(extra.get("enable_fallback", 1)) == 1:
                self.enable_fallback()

    __init__._engraft_original = original  # type: ignore[attr-defined]
    return __init__


def _is_plain(providers: Any, session_options: Any) -> bool:
    """Whether the program left the choice of providers open, or asked for the CPU's."""
    import onnxruntime

    if providers:
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        if names[0] == get_ep_name():
            return False  # with options of its own, perhaps
    else:
        # Without a choice, a GPU build takes its GPU; plugins, which are listed as well, take nothing by themselves.
        names = [] if onnxruntime.get_device() == "CPU" else onnxruntime.get_available_providers()
        if session_options is not None and session_options not in _state.prepared:
            has_providers = getattr(session_options, "has_providers", None)
            if has_providers is not None and has_providers():
                return False
    # Engraft is listed because it is registered: after the CPU provider, where it would get nothing.
    return set(names) <= _HOST_PROVIDERS | {get_ep_name()}


def _prepared(session_options: Any, options: dict[str, str], model: Any) -> Any:
    """The program's session options, or new ones, with Engraft added."""
    import onnxruntime

    if session_options is None:
        session_options = onnxruntime.SessionOptions()
    report = _report_of_session(options.get("placement_report_path"), model)
    if session_options not in _state.prepared:
        _provider.add_to(session_options, **options | ({"placement_report_path": report} if report else {}))
        _state.prepared.add(session_options)
    elif report:
        session_options.add_session_config_entry(f"ep.{get_ep_name().lower()}.placement_report_path", report)
    return session_options


def _report_of_session(path: str | None, model: Any) -> str | None:
    """This session's own report where `path` is a folder: `<number>-<model>.json` inside."""
    if not path or not (path.endswith(os.sep) or os.path.isdir(path)):
        return None
    name = Path(os.fsdecode(model)).stem if isinstance(model, (str, os.PathLike)) else "model"
    os.makedirs(path, exist_ok=True)
    return os.path.join(path, f"{next(_state.sessions):03}-{name}.json")


def _create_plainly(original: Any, self: Any, args: Any, kwargs: Any, error: Exception) -> None:
    """Creates the session as the program asked for it. What goes wrong now is the program's own business."""
    arguments = inspect.signature(original).bind(self, *args, **kwargs)
    # Engraft may be in the program's session options by now: naming the provider overrules them.
    arguments.arguments["providers"] = arguments.arguments.get("providers") or ["CPUExecutionProvider"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Specified 'providers'")
        original(*arguments.args, **arguments.kwargs)
    warnings.warn(f"a session was created without Engraft: {error}", EngraftWarning, stacklevel=4)
