"""A real Slurm of one node on loopback, started for a test in a temporary folder and ended with it.

munged, slurmctld and slurmd of the system (Debian: slurm-wlm, munge) run as the present user on free ports.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller}
SlurmdPort={daemon}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000000 State=UNKNOWN
PartitionName=loopback Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def running(cores: int) -> Iterator[dict[str, str]]:
    """A cluster until the block ends: the environment in which its commands find it."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [name for name in DAEMONS if shutil.which(name, path=path) is None]:
        raise FileNotFoundError(f"expected {', '.join(missing)} on the PATH, got none: install Slurm and MUNGE "
                                "(Debian: apt install slurm-wlm munge)")
    with tempfile.TemporaryDirectory(prefix="slurm-") as place, contextlib.ExitStack() as ended:
        folder = Path(place)
        ports = _free_ports(2)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        (folder / "slurm.conf").write_text(CONFIGURATION.format(
            folder=folder, host=socket.gethostname(), user=user, controller=ports[0], daemon=ports[1], cores=cores))
        # Within a job Snakemake's executor drops Slurm's variables, SLURM_CONF among them, before it calls srun.
        (folder / "srun").write_text(f"#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which('srun')} \"$@\"\n")
        (folder / "srun").chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        environment = {**os.environ, "PATH": f"{folder}:{path}", "SLURM_CONF": str(folder / "slurm.conf")}
        for command in (
                ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
                 f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                 f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"],
                ["slurmctld", "-D"], ["slurmd", "-D"]):
            with open(folder / f"{command[0]}.said", "w", encoding="utf8") as said:
                daemon = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
            ended.callback(_end, daemon)
            if command[0] == "munged":
                _wait(lambda: (folder / "munge.socket").exists(), folder)
        _wait(lambda: "idle" in asked(environment, "sinfo", "-h", "-o", "%t"), folder)
        try:
            yield environment
        finally:
            asked(environment, "scancel", "--user", user)
            _wait(lambda: not asked(environment, "squeue", "-h", "-t", "R,CG,PD"), folder)


def asked(environment: dict[str, str], *command: str) -> str:
    """What a command of Slurm prints; empty where it cannot answer yet."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _wait(ready, folder: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            said = "\n".join(f"{file.name}: {file.read_text(errors='replace')[-1000:]}"
                             for file in [*folder.glob("*.said"), *folder.glob("*.log")])
            raise TimeoutError(f"expected the cluster to be ready within {seconds:g} s, got:\n{said}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
