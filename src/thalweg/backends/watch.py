"""See in one call that nothing has changed since tensors were bound, and where gradients lie now.

Between steps anything may happen to a tensor: its data may be replaced, resized or freed, its
state exchanged. In Python, to look at each takes longer than the step of a small network. DLPack's
functions for C describe a tensor in some nanoseconds, so the look is a compiled function too.
"""

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.backends import compilation, local, memory

__all__ = ["Watch"]

State = Mapping[str, Any]


class Watch:
    """What a group of parameters was when it was bound.

    Args:
        params: the parameters.
        grads: the gradient of each, or None.
        words: for each the address of the word that holds its gradient's address; 0 where none
            does.
        held: tensors that must stay where they are, such as the parameters themselves.
        states: dictionaries that must keep what they hold under the keys.
        keys: those keys, for each dictionary.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        words: Sequence[int],
        held: Sequence[Tensor],
        states: Sequence[State],
        keys: Sequence[str],
    ) -> None:
        self._params = list(params)
        self._words = words
        seen = [
            g if g is None or not word else local.shard(g)
            for g, word in zip(grads, words, strict=True)
        ]
        self._grads = [None if g is None else _described(g) for g in seen]
        self._least = [0 if g is None else _least(g) for g in seen]
        self._held = [(x, x.data_ptr(), _described(x)) for x in held if not local.distributed(x)]
        parts = [(x, local.shard(x)) for x in held if local.distributed(x)]
        self._parts = [(x, part.data_ptr(), _described(part)) for x, part in parts]
        self._entries = [(state, key, state[key]) for state in states for key in keys]
        compiled = all(g is None or word for g, word in zip(grads, words, strict=True))
        self._look = _look() if compiled and not parts else None
        # An imaginary part may be negated when it is read, which DLPack does not tell, nor whether
        # complex numbers are conjugated then. One of a single element looks like any other tensor.
        self._odd = [
            p
            for p, g, word in zip(params, seen, words, strict=True)
            if g is not None
            and word
            and (g.is_complex() or not g.is_contiguous() or g.numel() == 1)
        ]
        self._complex = [x for x in held if x.is_complex()]
        self._may_be_lazy = bool(self._odd or self._complex)
        if self._look is not None:
            self._table()

    def _table(self) -> None:
        """The same as numbers, for the compiled function."""
        shapes: list[int] = []
        counts = [0]

        def noted(described: "_Description") -> None:
            shapes.extend((*described[2], *described[3]))
            counts.append(len(shapes))

        for _, _, described in self._held:
            noted(described)
        for described in self._grads:
            if described is not None:
                noted(described)
        self._shapes = np.array(shapes or [0], np.int64)
        places = iter(self._shapes.ctypes.data + 8 * n for n in counts)
        held = [(id(x), at, *_words(d), next(places), 0) for x, at, d in self._held]
        rows: list[tuple[int, ...]] = []
        for p, described, word, least in zip(
            self._params, self._grads, self._words, self._least, strict=True
        ):
            if described is None:
                rows.append((id(p), 0, 0, 0, 0, 0))
            else:
                rows.append((id(p), word, *_words(described), next(places), least))
        entries = [(id(state), id(key), id(value)) for state, key, value in self._entries]
        self._tables = [np.array(table or [()], np.uint64) for table in (rows, held, entries)]
        words = [
            word
            for table, listed in zip(self._tables, (rows, held, entries), strict=True)
            for word in (table.ctypes.data, len(listed))
        ]
        self._all = np.array([*words, *_functions()], np.uint64)
        self._address = self._all.ctypes.data

    def unchanged(self, params: list[Tensor]) -> bool:
        """Whether all is as it was; if so, the words hold where the gradients lie now.

        Args:
            params: the parameters as they are now.
        """
        if len(params) != len(self._params):
            return False
        if self._look is not None:
            try:
                seen = self._look(params, self._address) == 0
            except Exception:
                # A tensor that DLPack cannot describe is not what it was.
                return False
        else:
            seen = all(map(is_, params, self._params)) and self._looked_at()
        return seen and not (self._may_be_lazy and self._lazy())

    def _lazy(self) -> bool:
        """Whether a tensor's numbers are negated or conjugated only when they are read."""
        parts = map(local.shard, (*(p.grad for p in self._odd), *self._complex))
        return any(part.is_neg() or part.is_conj() for part in parts)

    def _looked_at(self) -> bool:
        """What the compiled function does, where DLPack cannot or torch is too old for it."""
        for state, key, value in self._entries:
            if state.get(key) is not value:
                return False
        for x, at, described in self._held:
            if x.data_ptr() != at or _described(x) != described:
                return False
        for x, at, described in self._parts:
            part = local.shard(x)
            if part.data_ptr() != at or _described(part) != described:
                return False
        for p, described, word, least in zip(
            self._params, self._grads, self._words, self._least, strict=True
        ):
            g = p.grad
            if g is None or described is None:
                if g is not None or described is not None:
                    return False
            elif not word:
                # torch's operations take any strides.
                if (g.dtype, g.device, g.shape) != described[:3] or g.layout is not torch.strided:
                    return False
                if memory.plain(g) and g.data_ptr() < least:
                    return False
            else:
                if type(g) is not Tensor:
                    if not local.distributed(g) or not local.alike(g, p):
                        return False
                    g = local.shard(g)
                if _described(g) != described or g.is_neg():
                    return False
                at = g.data_ptr()
                if at < least:
                    return False
                ctypes.c_uint64.from_address(word).value = at
        return True


_GRAD = "grad"
_LOWEST = 1 << 32
_Description = tuple[torch.dtype, torch.device, torch.Size, tuple[int, ...]]


def _described(x: Tensor) -> _Description:
    strided = x.layout is torch.strided
    return x.dtype, x.device, x.shape, x.stride() if strided else ()


def _least(g: Tensor) -> int:
    """What is below this is no address, but the place of a part in memory that has been freed.

    Where the system gives low addresses too, one that has been seen is an address.
    """
    return min(g.data_ptr(), _LOWEST) if memory.plain(g) and g.numel() else 0


def _words(described: _Description) -> tuple[int, int]:
    """The two words of DLPack's structure that hold device, number of dimensions and type."""
    dtype, _, shape, _ = described
    code = 5 if dtype.is_complex else 4 if dtype is torch.bfloat16 else 2
    return 1, len(shape) | code << 32 | dtype.itemsize * 8 << 40 | 1 << 48


@cache
def _functions() -> tuple[int, ...]:
    """The addresses of what the compiled function calls and compares with."""
    python = ctypes.pythonapi
    names = (
        "PyList_GetItem",
        "PyObject_GetAttr",
        "Py_DecRef",
        "PyDict_GetItem",
    )
    found = [ctypes.cast(getattr(python, name), ctypes.c_void_p).value or 0 for name in names]
    pointer = python.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    table = pointer(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")
    # The structure: version, an older table, then the functions; the fourth describes a tensor.
    describe = ctypes.c_uint64.from_address(table + 5 * 8).value
    # An object's type is the last word of its header.
    return (describe, *found, id(None), id(Tensor), object.__basicsize__ - 8, id(_GRAD))


@cache
def _look() -> Any:
    """The compiled function; None where torch does not have DLPack's functions for C."""
    if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__") or not _functions()[0]:
        return None
    kind = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, ctypes.c_void_p)
    return kind(compilation.address(_SOURCE, "look"))


# %table is three tables, each as address and length, then what _functions returns. A row is
#   of the first: parameter, word for the gradient's address (0: there is no gradient),
#       device, dimensions and type, address of shape and strides, least address
#   of the second: tensor, address of its data, device, dimensions and type, address of shape and
#       strides
#   of the third: dictionary, key, value
_SOURCE = """
; Whether a tensor is as it was; its data's address goes to %data.
define private i1 @same(ptr %tensor, ptr %row, ptr %describe, ptr %data) {
entry:
  %now = alloca [6 x i64]
  %failed = call i32 %describe(ptr %tensor, ptr %now)
  %described = icmp eq i32 %failed, 0
  br i1 %described, label %kind, label %other
kind:
  %at = load i64, ptr %now
  store i64 %at, ptr %data
  %device.at = getelementptr i64, ptr %now, i64 1
  %device = load i64, ptr %device.at
  %device.was.at = getelementptr i64, ptr %row, i64 2
  %device.was = load i64, ptr %device.was.at
  %type.at = getelementptr i64, ptr %now, i64 2
  %type = load i64, ptr %type.at
  %type.was.at = getelementptr i64, ptr %row, i64 3
  %type.was = load i64, ptr %type.was.at
  %offset.at = getelementptr i64, ptr %now, i64 5
  %offset = load i64, ptr %offset.at
  %device.same = icmp eq i64 %device, %device.was
  %type.same = icmp eq i64 %type, %type.was
  %offset.none = icmp eq i64 %offset, 0
  %both = and i1 %device.same, %type.same
  %all = and i1 %both, %offset.none
  br i1 %all, label %sizes, label %other
sizes:
  %dimensions = and i64 %type, 4294967295
  %shape.at = getelementptr i64, ptr %now, i64 3
  %shape = load ptr, ptr %shape.at
  %strides.at = getelementptr i64, ptr %now, i64 4
  %strides = load ptr, ptr %strides.at
  %was.at = getelementptr i64, ptr %row, i64 4
  %was = load ptr, ptr %was.at
  br label %size
size:
  %d = phi i64 [0, %sizes], [%d.next, %size.same]
  %size.last = icmp eq i64 %d, %dimensions
  br i1 %size.last, label %equal, label %size.compare
size.compare:
  %n.at = getelementptr i64, ptr %shape, i64 %d
  %n = load i64, ptr %n.at
  %n.was.at = getelementptr i64, ptr %was, i64 %d
  %n.was = load i64, ptr %n.was.at
  %s.at = getelementptr i64, ptr %strides, i64 %d
  %s = load i64, ptr %s.at
  %d.strides = add i64 %d, %dimensions
  %s.was.at = getelementptr i64, ptr %was, i64 %d.strides
  %s.was = load i64, ptr %s.was.at
  %n.same = icmp eq i64 %n, %n.was
  %s.same = icmp eq i64 %s, %s.was
  %n.s.same = and i1 %n.same, %s.same
  br i1 %n.s.same, label %size.same, label %other
size.same:
  %d.next = add i64 %d, 1
  br label %size
equal:
  ret i1 true
other:
  ret i1 false
}

; 0 if all is as it was, else 1; -1 with an exception.
define i64 @look(ptr %params, ptr %table) {
entry:
  %data = alloca i64
  %rows = load ptr, ptr %table
  %rows.count.at = getelementptr i64, ptr %table, i64 1
  %rows.count = load i64, ptr %rows.count.at
  %held.at = getelementptr i64, ptr %table, i64 2
  %held = load ptr, ptr %held.at
  %held.count.at = getelementptr i64, ptr %table, i64 3
  %held.count = load i64, ptr %held.count.at
  %states.at = getelementptr i64, ptr %table, i64 4
  %states = load ptr, ptr %states.at
  %states.count.at = getelementptr i64, ptr %table, i64 5
  %states.count = load i64, ptr %states.count.at
  %describe.at = getelementptr i64, ptr %table, i64 6
  %describe = load ptr, ptr %describe.at
  %list.item.at = getelementptr i64, ptr %table, i64 7
  %list.item = load ptr, ptr %list.item.at
  %attribute.at = getelementptr i64, ptr %table, i64 8
  %attribute = load ptr, ptr %attribute.at
  %release.at = getelementptr i64, ptr %table, i64 9
  %release = load ptr, ptr %release.at
  %dict.item.at = getelementptr i64, ptr %table, i64 10
  %dict.item = load ptr, ptr %dict.item.at
  %none.at = getelementptr i64, ptr %table, i64 11
  %none = load ptr, ptr %none.at
  %tensor.at = getelementptr i64, ptr %table, i64 12
  %tensor = load ptr, ptr %tensor.at
  %type.place.at = getelementptr i64, ptr %table, i64 13
  %type.place = load i64, ptr %type.place.at
  %grad.at = getelementptr i64, ptr %table, i64 14
  %grad = load ptr, ptr %grad.at
  br label %state

state:
  %k = phi i64 [0, %entry], [%k.next, %state.same]
  %k.last = icmp eq i64 %k, %states.count
  br i1 %k.last, label %hold, label %state.compare
state.compare:
  %k.word = mul i64 %k, 3
  %entry.at = getelementptr i64, ptr %states, i64 %k.word
  %dict = load ptr, ptr %entry.at
  %key.at = getelementptr i64, ptr %entry.at, i64 1
  %key = load ptr, ptr %key.at
  %value.was.at = getelementptr i64, ptr %entry.at, i64 2
  %value.was = load ptr, ptr %value.was.at
  %value = call ptr %dict.item(ptr %dict, ptr %key)
  %value.same = icmp eq ptr %value, %value.was
  br i1 %value.same, label %state.same, label %changed
state.same:
  %k.next = add i64 %k, 1
  br label %state

hold:
  %h = phi i64 [0, %state], [%h.next, %hold.same]
  %h.last = icmp eq i64 %h, %held.count
  br i1 %h.last, label %param, label %hold.compare
hold.compare:
  %h.word = mul i64 %h, 6
  %hold.at = getelementptr i64, ptr %held, i64 %h.word
  %x = load ptr, ptr %hold.at
  %x.same = call i1 @same(ptr %x, ptr %hold.at, ptr %describe, ptr %data)
  br i1 %x.same, label %hold.place, label %changed
hold.place:
  %x.data = load i64, ptr %data
  %x.was.at = getelementptr i64, ptr %hold.at, i64 1
  %x.was = load i64, ptr %x.was.at
  %x.stays = icmp eq i64 %x.data, %x.was
  br i1 %x.stays, label %hold.same, label %changed
hold.same:
  %h.next = add i64 %h, 1
  br label %hold

param:
  %i = phi i64 [0, %hold], [%i.next, %param.same]
  %i.last = icmp eq i64 %i, %rows.count
  br i1 %i.last, label %unchanged, label %param.compare
param.compare:
  %i.word = mul i64 %i, 6
  %row = getelementptr i64, ptr %rows, i64 %i.word
  %p.was = load ptr, ptr %row
  %p = call ptr %list.item(ptr %params, i64 %i)
  %p.same = icmp eq ptr %p, %p.was
  br i1 %p.same, label %gradient, label %changed
gradient:
  %g = call ptr %attribute(ptr %p, ptr %grad)
  %g.none = icmp eq ptr %g, null
  br i1 %g.none, label %failed, label %gradient.held
gradient.held:
  ; The parameter holds its gradient, so it stays when this reference is given back.
  call void %release(ptr %g)
  %word.at = getelementptr i64, ptr %row, i64 1
  %word = load ptr, ptr %word.at
  %absent.was = icmp eq ptr %word, null
  br i1 %absent.was, label %absent, label %present
absent:
  %absent.is = icmp eq ptr %g, %none
  br i1 %absent.is, label %param.same, label %changed
present:
  %g.type.at = getelementptr i8, ptr %g, i64 %type.place
  %g.type = load ptr, ptr %g.type.at
  %g.tensor = icmp eq ptr %g.type, %tensor
  br i1 %g.tensor, label %present.compare, label %changed
present.compare:
  %g.same = call i1 @same(ptr %g, ptr %row, ptr %describe, ptr %data)
  br i1 %g.same, label %present.place, label %changed
present.place:
  %g.data = load i64, ptr %data
  %least.at = getelementptr i64, ptr %row, i64 5
  %least = load i64, ptr %least.at
  %g.there = icmp uge i64 %g.data, %least
  br i1 %g.there, label %param.place, label %changed
param.place:
  store i64 %g.data, ptr %word
  br label %param.same
param.same:
  %i.next = add i64 %i, 1
  br label %param

unchanged:
  ret i64 0
changed:
  ret i64 1
failed:
  ret i64 -1
}
"""
