"""Ways that are Python libraries: asyncssh, paramiko and parallel-ssh, each with connections that are kept."""

from __future__ import annotations

import asyncio
import importlib
from typing import Any

from bench.ways.serve import Spec, serve

LOGINS_AT_ONCE = 32


class AsyncSsh:
    """All connections in one event loop."""

    def __init__(self, spec: Spec) -> None:
        self._module: Any = importlib.import_module("asyncssh")
        self._spec = spec
        self._loop = asyncio.new_event_loop()
        self._connections = self._loop.run_until_complete(self._connect())

    async def _connect(self) -> list[Any]:
        gate = asyncio.Semaphore(LOGINS_AT_ONCE)
        key = self._module.read_private_key(self._spec.key)

        async def connect(address: str, port: int) -> Any:
            async with gate:
                return await self._module.connect(
                    address, port, username=self._spec.user, client_keys=[key], known_hosts=self._spec.known_hosts,
                    config=None, agent_path=None,
                )  # fmt: skip

        return await asyncio.gather(*(connect(host.address, host.port) for host in self._spec.hosts))

    def once(self) -> None:
        self._loop.run_until_complete(self._connections[0].run("true", check=True))

    def everywhere(self) -> None:
        async def run() -> None:
            await asyncio.gather(*(connection.run("true", check=True) for connection in self._connections))

        self._loop.run_until_complete(run())

    def rest(self) -> None:
        pass

    def close(self) -> None:
        async def close() -> None:
            for connection in self._connections:
                connection.close()
            await asyncio.gather(*(connection.wait_closed() for connection in self._connections))

        self._loop.run_until_complete(close())
        self._loop.close()


class Paramiko:
    """One client; the first host alone."""

    def __init__(self, spec: Spec) -> None:
        module: Any = importlib.import_module("paramiko")
        self._client = module.SSHClient()
        self._client.load_host_keys(spec.known_hosts)
        host = spec.hosts[0]
        self._client.connect(
            host.address, host.port, spec.user, key_filename=spec.key, allow_agent=False, look_for_keys=False
        )

    def once(self) -> None:
        _, stdout, _ = self._client.exec_command("true")
        out = stdout.read()
        if stdout.channel.recv_exit_status() != 0 or out:
            raise RuntimeError(f"`true` did not succeed: {out!r}")

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._client.close()


class ParallelSsh:
    """parallel-ssh on libssh2."""

    def __init__(self, spec: Spec) -> None:
        clients: Any = importlib.import_module("pssh.clients")
        config: Any = importlib.import_module("pssh.config")
        settings = [config.HostConfig(port=host.port, user=spec.user, private_key=spec.key) for host in spec.hosts]
        self._client = clients.ParallelSSHClient(
            [host.address for host in spec.hosts], host_config=settings, allow_agent=False, pool_size=len(settings)
        )
        self.everywhere()

    def everywhere(self) -> None:
        output = self._client.run_command("true")
        self._client.join(output)
        failed = [host for host in output if host.exit_code != 0]
        if failed:
            raise RuntimeError(f"{len(failed)} failed, the first of them with {failed[0].exception}")

    def rest(self) -> None:
        pass

    def close(self) -> None:
        self._client.disconnect() if hasattr(self._client, "disconnect") else None


if __name__ == "__main__":
    serve({"asyncssh": AsyncSsh, "paramiko": Paramiko, "parallel-ssh": ParallelSsh})
