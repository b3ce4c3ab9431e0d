"""Where a stage runs: on this machine, or on the nodes of a Ray cluster. Its results are the same."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

from pipeline.task import UserError

SECONDS = 5  # for a cluster's head to accept a connection


@dataclass(frozen=True, slots=True)
class Engine:
    """`local`; `ray`, which starts Ray on this machine; or `ray:ADDRESS`, a running cluster.

    address : HOST:PORT of the cluster's head; "auto" for the cluster that this machine belongs to; "local" to start Ray
        on this machine for as long as it is needed; None for this machine without Ray
    """

    address: str | None = None

    @property
    def is_ray(self) -> bool:
        return self.address is not None

    @staticmethod
    def parse(text: str) -> "Engine":
        """The engine that `--engine` names.

        Raises
        ------
        UserError : it names none, or Ray is not installed

        Example
        -------
        >>> Engine.parse("local").is_ray
        False
        """
        kind, colon, address = text.partition(":")
        if text == "local":
            return Engine()
        host, _, port = address.rpartition(":")
        if kind != "ray" or (colon and address != "auto" and not (host and "/" not in host and port.isdecimal())):
            raise UserError(f"--engine {text}: expected local, ray, ray:auto or ray:HOST:PORT")
        if find_spec("ray") is None:
            raise UserError(f"--engine {text}: Ray is not installed: pip install '.[ray]' -c constraints.txt")
        return Engine(address or "local")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ray runs inside the block, unless the engine is local; it is shut down afterwards if it was started here.

        Raises
        ------
        UserError : there is no cluster at the address
        """
        if self.address is None:
            yield
            return
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # percept sends no telemetry
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns that the default will change
        import ray

        if ray.is_initialized():
            yield
            return
        if ":" in self.address:
            self._check_answers()
        dashboard = False if self.address == "local" else None  # a cluster has its own, or none
        try:
            ray.init(self.address, include_dashboard=dashboard, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if self.address == "auto":
                raise UserError(
                    "--engine ray:auto: this machine is not in a cluster; `ray start --head` starts one"
                ) from None
            raise UserError(f"--engine ray:{self.address}: {str(error).splitlines()[0]}") from None
        try:
            yield
        finally:
            ray.shutdown()

    def _check_answers(self) -> None:
        """UserError unless something listens there: Ray itself would try for a minute, and end the process."""
        assert self.address is not None
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"--engine ray:{self.address}: no cluster answers there: {reason}") from None


LOCAL = Engine()
