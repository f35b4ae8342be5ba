"""slurm_here: a whole Slurm on this machine, of its own ports and folders: one controller and two nodes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PLACES = "/usr/sbin:/usr/bin"
MISSING = [name for name in ("slurmctld", "slurmd", "sbatch", "squeue") if not shutil.which(name, path=PLACES)]
WHY_NOT = f"Slurm is not installed here ({', '.join(MISSING)}): apt-get install slurm-wlm" if MISSING else ""
if not MISSING and os.getuid() != 0:
    WHY_NOT = "Slurm's daemons need root here"

CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
SlurmdTimeout=600
SchedulerParameters=sched_interval=1,batch_sched_delay=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=1
PartitionName=small Nodes=n1,n2 Default=YES MaxTime=60 State=UP
PartitionName=tiny Nodes=n1 MaxTime=60 State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A running Slurm; ``environment`` is what its commands need."""

    def __init__(self, folder: Path) -> None:
        ports = dict(zip(("port", "port_1", "port_2"), free_ports(3), strict=True))
        host = socket.gethostname().split(".")[0]
        conf = folder / "slurm.conf"
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        conf.write_text(CONF.format(folder=folder, host=host, **ports))
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{PLACES}:{os.environ['PATH']}"}
        self.controller = self._start("slurmctld", "-D", "-c", "-i")
        self.nodes = {name: self._start("slurmd", "-D", "-N", name) for name in ("n1", "n2")}
        deadline = time.monotonic() + 60
        while self.said("sinfo", "-h", "-p", "small", "-o", "%T %D") != "idle 2":
            if time.monotonic() > deadline:
                logs = [log.read_text()[-1000:] for log in folder.glob("*.log")]
                self.stop()
                raise RuntimeError("Slurm does not start: " + "\n".join(logs))
            time.sleep(0.3)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{'-'.join(words)}.out").open("wb") as out:
            return subprocess.Popen(words, env=self.environment, stdout=out, stderr=out, start_new_session=True)

    def said(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False).stdout.strip()

    def jobs(self) -> list[str]:
        return self.said("squeue", "-h", "-r", "-o", "%i %T %N").splitlines()

    def kill_node(self, name: str) -> None:
        """What a power cut leaves: the node's daemon and all that ran on it are gone."""
        daemon = self.nodes[name].pid
        for pid in [*_below(daemon), *self._of_node(name), daemon]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def start_node(self, name: str) -> None:
        """Starts the daemon of a node that was killed; the jobs that ran on it are over."""
        self.nodes[name].wait()
        self.nodes[name] = self._start("slurmd", "-D", "-N", name)

    def _of_node(self, name: str) -> list[int]:
        """Processes of jobs on a node, which Slurm says in their environment."""
        conf = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        node = f"SLURMD_NODENAME={name}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if conf in environment and node in environment:
                found.append(int(path.name))
        return found

    def stop(self) -> None:
        self.said("scancel", "--me")
        time.sleep(0.5)
        for node in self.nodes:
            self.kill_node(node)
        self.controller.kill()
        for process in (self.controller, *self.nodes.values()):
            process.wait()


def _below(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found
