"""gpus: which worker of a queue has which GPU, so that workers of one node never time on the same.

    <queue>/gpus/<GPU>/<worker>    a folder for each GPU that was claimed, with its worker's name in it; empty if free
                 <worker>.surplus  a worker that found no GPU, and ended

A claim is a folder with a name in it, which is renamed to that of the GPU: a file system lets that happen once, unless
the folder there is empty. A claim holds as long as its worker renews its lease; then whoever renames the dead worker's
file has the GPU. GPUs go by their UUIDs, since two jobs of one node may both call theirs 0.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hybridbench.errors import BadInput
from hybridbench.queue.lease import LeaseWatch
from hybridbench.queue.plan import GPUS

_SURPLUS = ".surplus"


@dataclass
class GpuClaims:
    """A worker's claims of GPUs.

    Args:
        folder: of the queue.
        member: the worker's name, whose lease it renews.
        watch: of the queue's leases.
    """

    folder: Path
    member: str
    watch: LeaseWatch
    _mine: list[Path] = field(default_factory=list)

    def take(self, gpus: Mapping[str, str], most: int = 1, sleep: Callable[[float], object] = time.sleep) -> list[str]:
        """Claims GPUs that no living worker has: as many as there are, ``most`` at the most.

        It takes up to the queue's ``lease_s`` where all are claimed and one of their workers does not renew its lease.

        Args:
            gpus: those that may be used, as CUDA_VISIBLE_DEVICES takes them, each with the UUID it is known by.

        Returns:
            Those claimed. None if others have them all, or if the queue is gone, with all its cases done.

        Raises:
            BadInput: the queue's folder cannot be written.
        """
        try:
            (self.folder / GPUS).mkdir(exist_ok=True)
            while True:
                found: list[str] = []
                holders: set[str] = set()
                for gpu, uuid in gpus.items():
                    if len(found) == most:
                        break
                    place = self.folder / GPUS / uuid.replace("/", "_")
                    holder = self._claim(place)
                    if holder == self.member:
                        found.append(gpu)
                        self._mine.append(place)
                    else:
                        holders.add(holder or "")
                if found or holders <= self.watch.alive(sleep=sleep, among=holders):
                    return found
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise BadInput(
                f"{self.folder} cannot be used ({exc.strerror}): make it writable, then go on with --resume."
            ) from exc

    def _claim(self, place: Path) -> str | None:
        """Tries to claim a GPU; who has it then, None if it was freed in between."""
        holder = _holder(place)
        if holder is None:
            new = place.with_name(f"{place.name}@{self.member}.new")
            new.mkdir(exist_ok=True)
            (new / self.member).touch()
            try:
                new.rename(place)
            except OSError:  # another has claimed it, as the folder now says
                shutil.rmtree(new)
        elif self.watch.gone(holder):
            with contextlib.suppress(FileNotFoundError):
                os.rename(place / holder, place / self.member)
        else:
            return holder
        return _holder(place)

    def give_up(self) -> None:
        """Notes for those who watch that this worker found no GPU."""
        with contextlib.suppress(OSError):
            (self.folder / GPUS / f"{self.member}{_SURPLUS}").touch()

    def release(self) -> None:
        """Frees what was claimed, but for what another has taken over since."""
        for place in self._mine:
            with contextlib.suppress(OSError):
                (place / self.member).unlink()
        self._mine.clear()


def _holder(place: Path) -> str | None:
    try:
        return next((name for name in os.listdir(place) if not name.startswith(".")), None)  # NFS hides what is open
    except FileNotFoundError:
        return None


def surplus(folder: Path) -> int:
    """How many workers of a queue ended because every GPU of their nodes had a worker."""
    try:
        return sum(name.endswith(_SURPLUS) for name in os.listdir(folder / GPUS))
    except OSError:
        return 0
