"""How many threads compiled code uses.

TVM keeps one pool per calling thread, sized when first used, and remembers the number asked for in that thread. So the
number is set again whenever another session runs in the same thread.
"""

from __future__ import annotations

import logging
import os
import platform
import threading

_LOG = logging.getLogger(__name__)
_SHARE_ALL_CORES = -3  # TVM's affinity mode; the only one that takes a number above the number of fast cores
_current = threading.local()


def leave_threads_unbound() -> None:
    """Keep TVM from pinning the calling thread to a core when it makes its pool, unless TVM_BIND_THREADS says so."""
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def default_threads() -> int:
    """TVM's own default: TVM_NUM_THREADS, else OMP_NUM_THREADS, else the cores (on x86 half the logical ones)."""
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit():
            return max(int(value), 1)
    logical = os.cpu_count() or 1
    return max(logical // 2 if platform.machine() in ("x86_64", "AMD64") else logical, 1)


def use_threads(count: int | None) -> None:
    """Let TVM use ``count`` threads for calls from this thread; None is the default number."""
    if count == getattr(_current, "count", None):  # None before any number was asked for in this thread
        return
    wanted = default_threads() if count is None else count
    if not hasattr(_current, "count"):
        _configure(max(wanted, len(_cores())))  # the pool cannot grow later, and idle threads cost nothing
    _configure(wanted)
    _current.count = count
    available = _threads_in_pool()
    if available < wanted:
        _LOG.warning("only %d of %d threads: TVM's pool in this thread was made smaller before", available, wanted)


def _configure(count: int) -> None:
    import tvm_ffi

    cores = _cores()
    names = [str(cores[i % len(cores)]) for i in range(count)]
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_ALL_CORES, count, names)


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _threads_in_pool() -> int:
    import tvm_ffi

    return int(tvm_ffi.get_global_func("runtime.NumThreads")())
