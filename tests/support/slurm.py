"""A SLURM cluster of two nodes on one machine.

Each node is a ``slurmd`` with a host name and a network of its own (Linux namespaces, joined by a
virtual cable), as on two machines that share a file system. Nothing of it is seen from outside,
and several clusters may run at a time.
"""

import os
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.jobs import genuine

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "ip", "nsenter")
PACKAGES = ("slurm-wlm", "munge", "iproute2", "util-linux")
NODES = {"node1": "10.97.0.1", "node2": "10.97.0.2"}
SLURM_CONF = """
ClusterName=test
SlurmctldHost=node1(10.97.0.1)
SlurmUser=root
AuthInfo=cred_expire=5,socket={directory}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
NodeName=node1 NodeAddr=10.97.0.1 CPUs={cpus} State=UNKNOWN
NodeName=node2 NodeAddr=10.97.0.2 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP GraceTime=60 PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def _install():
    """Install SLURM, or skip the test."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("SLURM can only be installed and started by root, on Debian")
    if all(map(shutil.which, PROGRAMS)):
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        result = subprocess.run(["apt-get", *command], env=env, capture_output=True, check=False)
        if result.returncode:
            pytest.skip(f"SLURM cannot be installed: {result.stderr.decode().strip()[-200:]}")


class Cluster:
    """The controller, on the first node, and both nodes; a context manager.

    Args:
        directory: Where it keeps its files.
    """

    def __init__(self, directory):
        self._directory, self._env = directory, {"SLURM_CONF": str(directory / "slurm.conf")}
        self._services, self._pids = ExitStack(), {}

    def __enter__(self):
        _install()
        directory, services = self._directory, self._services
        (directory / "state").mkdir()
        text = SLURM_CONF.format(directory=directory, cpus=os.cpu_count())
        (directory / "slurm.conf").write_text(text)
        hosts = [f"{address} {name}\n" for name, address in NODES.items()]
        (directory / "hosts").write_text("".join(["127.0.0.1 localhost\n", *hosts]))
        with services:
            self._start("munged", *self._munged())
            for node in NODES:
                self._pids[node] = self._boot(node)
            self._connect()
            self._start("slurmctld", *self._inside("node1"), "slurmctld", "-D")
            for node in NODES:
                self._start(node, *self._inside(node, "-m"), "slurmd", "-D", "-N", node)
            self._wait_for_nodes()
            services.callback(self._cancel_all)
            self._services = services.pop_all()
        return self

    def __exit__(self, *exception):
        self._services.__exit__(*exception)

    def run(self, *command, **environment):
        """Run a program of SLURM on the first node; returns its output."""
        command = [*self._inside("node1"), *map(str, command)]
        env = genuine(**environment, **self._env)
        return subprocess.run(command, env=env, stdout=-1, text=True, check=True).stdout.strip()

    def submit(self, *arguments, **environment):
        """Submit a job; returns its number."""
        return self.run("sbatch", "--parsable", *arguments, **environment)

    def wait(self, condition, job, seconds=240):
        """Wait until a condition on what SLURM says about a job is true."""
        end = time.monotonic() + seconds
        while not condition(state := self.run("scontrol", "show", "job", job)):
            logs = "\n".join(path.read_text()[-3000:] for path in Path().glob("*.log"))
            assert time.monotonic() < end, state + logs
            assert "JobState=FAILED" not in state, state + logs
            time.sleep(0.2)

    def _start(self, name, *command):
        """Start a process that ends with the cluster."""
        log = self._services.enter_context((self._directory / f"{name}.out").open("w"))
        env = {**os.environ, **self._env}
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        self._services.callback(process.wait)
        self._services.callback(process.terminate)

    def _munged(self):
        """The command of the authentication service, with a key and files of its own."""
        key = self._directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"key-file": key, "socket": key.with_suffix(".socket")}
        files |= {f"{kind}-file": key.with_suffix(f".{kind}") for kind in ("pid", "log", "seed")}
        options = [f"--{name}={path}" for name, path in files.items()]
        return "munged", "--foreground", "--force", *options

    def _boot(self, node):
        """Start a process with a host name, a network and a table of hosts of its own."""
        hosts = self._directory / "hosts"
        script = (
            f"hostname {node} && ip link set lo up && mount --bind {hosts} /etc/hosts "
            "&& echo up && exec sleep infinity"
        )
        command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", script]
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
        self._services.enter_context(process)
        self._services.callback(process.kill)
        if process.stdout.readline() != "up\n":
            pytest.skip(f"no namespaces for two nodes: {process.stderr.read().strip()[-200:]}")
        return str(process.pid)

    def _connect(self):
        """Lay a cable between the nodes."""
        first, second = self._pids.values()
        ends = ["eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second]
        subprocess.run(["ip", "link", "add", *ends], check=True)
        for node, address in NODES.items():
            ip = [*self._inside(node), "ip"]
            subprocess.run([*ip, "address", "add", f"{address}/24", "dev", "eth0"], check=True)
            subprocess.run([*ip, "link", "set", "eth0", "up"], check=True)

    def _inside(self, node, *namespaces):
        return ["nsenter", "-t", self._pids[node], "-n", "-u", *namespaces]

    def _cancel_all(self):
        """Leave no process of a job, which a node does not take along."""
        end = time.monotonic() + 20
        while self.run("squeue", "--noheader") and time.monotonic() < end:
            self.run("scancel", "--user=root", "--signal=KILL", "--full")
            time.sleep(0.2)

    def _wait_for_nodes(self):
        end = time.monotonic() + 60
        while "2 idle" not in self.run("sinfo", "--noheader", "-p", "main", "-o", "%D %t"):
            logs = [path.read_text()[-2000:] for path in self._directory.glob("*.log")]
            assert time.monotonic() < end, "\n".join(logs)
            time.sleep(0.2)
