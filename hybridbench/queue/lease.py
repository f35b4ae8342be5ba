"""lease: what shows that a worker is alive: a file that it renews, and that others watch with their own clock.

Machines of a cluster may disagree about the time by an hour, so no time of one is compared with one of another. A
worker writes a file anew every ``RENEW_S``; a reader keeps what it saw and when, on its own monotonic clock. If the
file has not changed for the queue's ``lease_s``, the worker is gone. On the reader's own machine its process is looked
up, which tells at once.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hybridbench.processes import alive

RENEW_S = 5.0
LEASE_S = 90.0
"""After so long without a renewal a worker is taken for dead; seconds. Clients of NFS may show a file's old content for
60 s."""


@cache
def machine() -> str:
    """What names this machine and its numbering of processes: the boot, and the namespace of a container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no /proc
        return ""


def started(pid: int) -> str:
    """When a process was started, in ticks since the boot: tells it from a later one with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


class Lease:
    """A worker's own file, renewed by a thread until ``end``.

    Args:
        folder: of these files.
        about: what others may want to know of the worker.
        renew_s: seconds between renewals; None if the owner calls ``renew``.
    """

    def __init__(self, folder: Path, about: dict[str, Any], renew_s: float | None = RENEW_S) -> None:
        self.name = f"{socket.gethostname().split('.')[0]}-{os.getpid()}-{secrets.token_hex(3)}"
        self.said: dict[str, Any] = {
            "node": socket.gethostname(),
            "machine": machine(),
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "renewed": 0,
            **about,
        }
        self._file = folder / f"{self.name}.json"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._write()
        self._thread = threading.Thread(target=self._keep, args=(renew_s,), daemon=True)
        if renew_s is not None:
            self._thread.start()

    def tell(self, **said: Any) -> None:
        """Changes what the file says, with the next renewal."""
        with self._lock:
            self.said |= said

    def renew(self) -> None:
        """Writes the file anew; where the disk is full, a new time of the file has to do."""
        with self._lock:
            self.said["renewed"] += 1
        try:
            self._write()
        except OSError:
            try:
                os.utime(self._file)
            except OSError:
                return  # the folder is gone or cannot be reached: the worker notices when it takes or settles a job

    def _write(self) -> None:
        with self._lock:
            text = json.dumps(self.said)
        new = self._file.with_suffix(".new")
        try:
            new.write_text(text, encoding="utf-8")
            new.replace(self._file)
        except OSError:
            new.unlink(missing_ok=True)
            raise

    def _keep(self, renew_s: float) -> None:
        while not self._over.wait(renew_s):
            self.renew()

    def end(self) -> None:
        """Removes the file: the worker holds nothing any more."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._file.unlink(missing_ok=True)


@dataclass
class LeaseWatch:
    """What a reader has seen of the workers of a queue.

    Args:
        folder: of their files.
        lease_s: how long a file may stay as it is; seconds.
        now: the reader's monotonic clock, in seconds.
    """

    folder: Path
    lease_s: float = LEASE_S
    now: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def members(self) -> dict[str, dict[str, Any]]:
        """What each worker says of itself, by its name; of one whose file cannot be read, nothing."""
        return {name: self.said(name) for name in sorted(_names(self.folder))}

    def said(self, name: str) -> dict[str, Any]:
        """What a worker says of itself."""
        try:
            said = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def gone(self, name: str) -> bool:
        """Whether a worker is dead: its process on this machine is, or its file is as it was for ``lease_s``."""
        sign = self._sign(name)
        before = self._seen.get(name)
        if before is None or before[0] != sign:
            self._seen[name] = sign, self.now()
        return self.dead_here(name) or self.now() - self._seen[name][1] > self.lease_s

    def dead_here(self, name: str) -> bool:
        """Whether a worker ran on this machine and its process is gone."""
        said, here = self.said(name), machine()
        if not here or said.get("machine") != here or not isinstance(said.get("pid"), int):
            return False
        return not alive(said["pid"]) or started(said["pid"]) != said.get("started")

    def _sign(self, name: str) -> Any:
        """What a renewal changes; opening a file makes a client of NFS ask the server for it."""
        try:
            with (self.folder / f"{name}.json").open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns, file.read()
        except OSError:
            return None

    def alive(
        self,
        within_s: float = 2 * RENEW_S,
        sleep: Callable[[float], object] = time.sleep,
        among: Collection[str] | None = None,
    ) -> set[str]:
        """The workers that live, of all or of those ``among``, after a look of up to ``within_s`` at other hosts'."""
        known = _names(self.folder) if among is None else among
        names = {name for name in known if not self.dead_here(name)}
        here = machine()
        found = {name for name in names if here and self.said(name).get("machine") == here}
        signs = {name: self._sign(name) for name in names - found}
        ends_at = self.now() + within_s
        while names - found and self.now() < ends_at:
            sleep(0.25)
            found |= {name for name in names - found if self._sign(name) != signs[name]}
        return found & _names(self.folder)


def _names(folder: Path) -> set[str]:
    try:
        return {name.removesuffix(".json") for name in os.listdir(folder) if name.endswith(".json")}
    except FileNotFoundError:
        return set()
