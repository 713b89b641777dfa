"""Measurements in fresh processes, and files in or out of the operating system's cache.

A process that has loaded before has its allocator warm and its kernels chosen; one that begins has not. Each
measurement gets a process that has imported what it needs and done nothing yet.
"""

import ctypes
import mmap
import multiprocessing
import os
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from pwl_lab.parallel import CaseFailedError, WorkerLostError, how_it_ended, one_thread, pack, run_packed, without_main

PRELOADED = ["pwl_lab.clock.ways", "pwl_lab.clock.latency"]  # imported once; every fresh process is a copy of that one


def in_fresh_process(work: Callable[..., Any], longest_s: float = 1800.0, **case: Any) -> Any:
    """`work(**case)`, a module's function, in a process of its own with one torch thread; its result or its exception.

    Raises WorkerLostError where the process ended without an answer, or had none after `longest_s` seconds.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, pack(work, case)), daemon=True)
    with without_main():
        process.start()
    sender.close()
    try:
        if not receiver.poll(longest_s):
            process.kill()
            raise WorkerLostError(f"the process that ran {work.__name__} had no answer after {longest_s:g} s")
        well, value = receiver.recv()
    except EOFError as error:
        process.join()
        raise WorkerLostError(f"{work.__name__}: {how_it_ended(process.exitcode)}") from error
    finally:
        process.join()
        receiver.close()
    if not well:
        value.raise_here()
    return cloudpickle.loads(value)


def _answer(sender: Connection, packed: bytes) -> None:
    """The fresh process."""
    with one_thread():
        try:
            answer = (True, run_packed(packed))
        except CaseFailedError as failed:
            answer = (False, failed)
    sender.send(answer)


def warm_up(files: Iterable[Path]) -> None:
    """Read the files, so that they are in the operating system's cache."""
    buffer = torch.empty(1 << 20, dtype=torch.uint8).numpy()
    for path in files:
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cool_down(files: Iterable[Path]) -> bool:
    """Take the files out of the operating system's cache; whether they are out (not every system and disk does it)."""
    files = [Path(path) for path in files]
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what was not written yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return all(cached_share(path) < 0.01 for path in files if path.stat().st_size)


def cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory, in [0, 1]; 1 where the system does not tell."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    tell = getattr(ctypes.CDLL(None), "mincore", None)
    if tell is None or not size:
        return 1.0
    # A private mapping that may be written to has an address that ctypes can take; nothing is written.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=3) as mapped:
        address = ctypes.addressof(anchor := ctypes.c_char.from_buffer(mapped))
        there = (ctypes.c_ubyte * pages)()
        failed = tell(ctypes.c_void_p(address), ctypes.c_size_t(size), there)
        del anchor  # else the mapping could not be closed
    return 1.0 if failed else sum(byte & 1 for byte in there) / pages
