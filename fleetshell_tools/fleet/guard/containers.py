"""Containers: which command runs inside one, followed as on a host, but judged by what data would be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.producers import produce
from fleetshell_tools.fleet.guard.symbols import UNKNOWN

if TYPE_CHECKING:
    from fleetshell_tools.fleet.guard.follow import Follower

PROGRAMS = (
    "docker",
    "podman",
    "nerdctl",
    "docker-compose",
    "podman-compose",
    "kubectl",
    "oc",
    "lxc",
    "incus",
    "crictl",
    "machinectl",
)
_SHORT = "eupnwlvcfhHm"
_LONG = (
    "env env-file user workdir name network volume mount publish entrypoint label hostname container namespace file memory "
    "cpus restart platform project-name context kubeconfig index detach-keys add-host cap-add cap-drop device dns expose gpus "
    "ip log-driver log-opt net pid pull security-opt shm-size tmpfs ulimit userns volumes-from cgroup-parent"
).split()


def command_in(words: Sequence[str]) -> list[str]:
    """The command that `docker exec C …`, `docker compose exec S …`, `kubectl exec P -- …` runs; empty where there is none."""
    rest = _after_options(words[1:])
    if rest[:1] in (["compose"], ["container"]):
        rest = _after_options(rest[1:])
    verb = rest[0] if rest else ""
    if words[0] == "machinectl" and verb == "shell":
        return rest[2:]
    if verb not in ("exec", "run"):
        return []
    if words[0] in ("kubectl", "oc", "lxc", "incus") and "--" in rest:
        return rest[rest.index("--") + 1 :]
    # A container that is thrown away has nothing to lose but what it is given, and that is judged by itself.
    if verb == "run" and words[0] not in ("docker-compose", "podman-compose") and "compose" not in words[:4]:
        return []
    return _after_options(rest[1:])[1:]


def _after_options(words: Sequence[str]) -> list[str]:
    return parse(words, short=_SHORT, long=_LONG, to_operand=True).operands


def inside(follower: Follower, words: list[str], stdin: str) -> str:
    """Follow the command inside; its files and folders are others than the host's."""
    command = command_in(words)
    if not command:
        return produce(words[0], words[1:], stdin)
    follower.contained += 1
    try:
        return follower.subshell(lambda: _elsewhere(follower, command, stdin))
    finally:
        follower.contained -= 1


def _elsewhere(follower: Follower, command: list[str], stdin: str) -> str:
    follower.state.folder = UNKNOWN
    return follower.run(command, stdin)
