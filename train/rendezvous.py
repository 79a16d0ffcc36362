"""How the processes of a run find each other: at a store that rank 0 keeps."""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Callable

from torch import distributed as dist

from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError

PATIENCE = 300.0  # s; processes that are started together meet within seconds
QUIET = 3.0  # s, before it is said what is waited for
_PAUSE = 0.1  # s
_ANSWER = datetime.timedelta(seconds=30)  # of a store that is there


def meet(rank: int, world: int, address: str, port: int) -> dist.Store:
    """Wait until every process of the run is here.

    Any signal can end the wait, and after seconds it is said what is waited for: with wrong
    variables the others never come.

    Returns:
        The store that they have in common, which rank 0 keeps at address and port.

    Raises:
        TrainError: after `PATIENCE`, or when something else is at work at the address.
    """
    where = f"{address}:{port}"
    wait = _Wait(f"waiting for {world} processes at {where}")
    # torchrun keeps the store itself, and keeps it when it restarts the processes.
    launched = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = rank == 0 and not launched
    if not keeps:
        wait.until(lambda: _answers(address, port), lambda: f"nothing answers at {where}")
    try:
        # The keeper reaches its own store whatever others call its host.
        host = "127.0.0.1" if keeps else address
        store: dist.Store = dist.TCPStore(host, port, world, keeps, _ANSWER, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if launched else "0"
        store = dist.PrefixStore(f"faceguide/{world}/{attempt}", store)
        came = [f"rank-{number}" for number in range(world)]
        if store.add(came[rank], 1) > 1:
            raise TrainError(
                f"{where}: another process is rank {rank} too; two runs need two ports: set "
                "MASTER_PORT"
            )
        wait.until(
            lambda: store.check(came),
            lambda: f"{sum(store.check([key]) for key in came)} of {world} came to {where}",
        )
    except (RuntimeError, ValueError) as error:  # torch's, of a store
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainError(
            f"{where}: the processes cannot meet there ({text}); set MASTER_ADDR and MASTER_PORT "
            "to the host of rank 0 and a free port"
        ) from None
    return store


class _Wait:
    """One deadline for all that is waited for, and the one line that says so."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._began = time.monotonic()
        self._said = False

    def until(self, there: Callable[[], bool], found: Callable[[], str]) -> None:
        """Return when `there` is true; `found` says in the refusal how far it came."""
        while not there():
            waited = time.monotonic() - self._began
            if waited > QUIET and not self._said:
                say(self._line)
                self._said = True
            if waited > PATIENCE:
                raise TrainError(
                    f"{self._line}: {found()} within {PATIENCE / 60:.0f} minutes. Start them all "
                    "with srun or torchrun, set MASTER_ADDR if rank 0 is on another host, or unset "
                    "SLURM_STEP_ID to train in one process"
                )
            time.sleep(_PAUSE)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:  # also a name that is not known yet
        return False
    return True
