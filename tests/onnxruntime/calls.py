"""Counts the calls that a loaded library makes into libc, by pointing its global offset table at counting functions.

Only calls out of that one library count: what ONNX Runtime does around it does not. Linux on x86-64.
"""

from __future__ import annotations

import ctypes
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WORD = ctypes.c_size_t
_PAGE = 4096
_RELOCATIONS = (6, 7)  # GLOB_DAT, JUMP_SLOT
_libc = ctypes.CDLL(None, use_errno=True)

ALLOCATION = ("malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "free")
LOCKS = (
    "pthread_mutex_lock",
    "pthread_mutex_trylock",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "pthread_cond_wait",
    "pthread_cond_timedwait",
)
SYSTEM = (
    "syscall",  # futex: how Rust's own locks wait and wake
    "mmap",
    "mmap64",
    "munmap",
    "mprotect",
    "madvise",
    "read",
    "write",
    "open",
    "open64",
    "close",
    "sched_yield",
    "nanosleep",
    "clock_nanosleep",
    "pthread_create",
)


class Library:
    """A library that this process has loaded."""

    def __init__(self, path: str) -> None:
        path = str(Path(path).resolve())
        self._base = self._address_of(path)
        self._slots = dict(self._imports(Path(path).read_bytes()))

    @property
    def imports(self) -> set[str]:
        return set(self._slots)

    @contextmanager
    def counted(self, names: Iterable[str], least: int = 0) -> Iterator[Counter[str]]:
        """Counts the calls of these functions, as far as the library imports them, that are made meanwhile and whose third
        argument (what is to be copied, of memcpy) is at least `least`."""
        calls: Counter[str] = Counter()
        originals: list[tuple[int, int]] = []
        keep = []
        try:
            for name in self.imports.intersection(names):
                slot = self._slots[name]
                original = _WORD.from_address(slot).value
                if not original:
                    continue
                # Six words of arguments: more than any of these functions takes in registers.
                kind = ctypes.CFUNCTYPE(_WORD, *[_WORD] * 6)

                def count(*arguments: int, name: str = name, forward=kind(original)) -> int:
                    if arguments[2] >= least:
                        calls[name] += 1
                    return forward(*arguments)

                hook = kind(count)
                keep.append(hook)
                originals.append((slot, original))
                self._store(slot, ctypes.cast(hook, ctypes.c_void_p).value or 0)
            yield calls
        finally:
            for slot, original in originals:
                self._store(slot, original)

    @staticmethod
    def _store(slot: int, value: int) -> None:
        page = slot // _PAGE * _PAGE
        # The table is read-only once the library is loaded.
        if _libc.mprotect(ctypes.c_void_p(page), _WORD(2 * _PAGE), 3) and _libc.mprotect(
            ctypes.c_void_p(page), _WORD(_PAGE), 3
        ):
            raise OSError(ctypes.get_errno(), "mprotect")
        _WORD.from_address(slot).value = value

    @staticmethod
    def _address_of(path: str) -> int:
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] == path and int(fields[2], 16) == 0:
                return int(fields[0].split("-")[0], 16)
        raise LookupError(f"{path} is not loaded")

    def _imports(self, file: bytes) -> Iterator[tuple[str, int]]:
        """Name and table slot of every imported function."""
        (table,) = struct.unpack_from("<Q", file, 32)
        size, count = struct.unpack_from("<HH", file, 54)
        headers = [struct.unpack_from("<IIQQQQQQ", file, table + i * size) for i in range(count)]

        def offset(address: int) -> int:
            for kind, _, start, virtual, _, length, _, _ in headers:
                if kind == 1 and virtual <= address < virtual + length:
                    return start + address - virtual
            raise LookupError(f"address {address:#x} is in no segment")

        dynamic = next(h for h in headers if h[0] == 2)
        entries = dict(struct.iter_unpack("<QQ", file[dynamic[2] : dynamic[2] + dynamic[5]]))
        names, symbols = offset(entries[5]), offset(entries[6])
        for start, length in [(23, 2), (7, 8)]:  # JMPREL, RELA
            if start not in entries:
                continue
            begin = offset(entries[start])
            for place, info, _ in struct.iter_unpack("<QQq", file[begin : begin + entries[length]]):
                if info & 0xFFFFFFFF in _RELOCATIONS:
                    (name,) = struct.unpack_from("<I", file, symbols + (info >> 32) * 24)
                    text = file[names + name : file.index(b"\0", names + name)].decode()
                    yield text, self._base + place
