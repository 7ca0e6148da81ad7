"""Several processes of one run, which find each other as those of a cluster do."""

import socket
import time


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_ranks(server, num, args, log, environment=None, *, nodes=1):
    """Start all ranks of ``python -m ncsn ARGS`` on this machine, on CPUs (gloo).

    The environment says which rank each process is, so that Lightning starts none itself.

    Args:
        server: The fixture of that name.
        num: Number of ranks.
        args: The command line, without devices and strategy.
        log: File that the output and the errors of all ranks are appended to.
        environment: Variables that differ from this process's; None takes one away.
        nodes: 1, or as many as ranks: each is then started as one does by hand on a node.

    Returns:
        A list of :class:`support.processes.Process`, in the order of their ranks.
    """
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    by_hand = [{"NODE_RANK": str(rank)} for rank in range(num)]
    by_launcher = [
        {"NODE_RANK": "0", "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num)} for rank in range(num)
    ]
    args = (*args, "--trainer.num_nodes", nodes, "--trainer.devices", num // nodes)
    return [
        server.start((*args, "--trainer.strategy", "ddp"), log, common | own | (environment or {}))
        for own in (by_launcher if nodes == 1 else by_hand)
    ]


def wait_for_ranks(processes, timeout=300):
    """Wait for all ranks; returns their exit statuses."""
    end = time.monotonic() + timeout
    return [process.wait(max(0, end - time.monotonic())) for process in processes]
