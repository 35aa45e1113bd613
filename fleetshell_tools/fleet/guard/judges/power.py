"""Judges of class power: what stops or restarts the host."""

from __future__ import annotations

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import resolve
from fleetshell_tools.fleet.guard.rules import REBOOT, SHUTDOWN, Command, Finding, judges

_STOPS = "stops the host"
_RESTARTS = "restarts the host"
_VERBS = {
    "poweroff": _STOPS,
    "halt": _STOPS,
    "reboot": _RESTARTS,
    "kexec": _RESTARTS,
    "soft-reboot": _RESTARTS,
    "suspend": _STOPS,
    "hibernate": _STOPS,
    "hybrid-sleep": _STOPS,
    "suspend-then-hibernate": _STOPS,
    "emergency": _STOPS,
    "rescue": _STOPS,
}
_TARGETS = frozenset(
    [
        "poweroff",
        "halt",
        "reboot",
        "kexec",
        "shutdown",
        "rescue",
        "emergency",
        "runlevel0",
        "runlevel6",
        "suspend",
        "hibernate",
        "exit",
        "basic",
        "sysinit",
        "runlevel1",
    ]
)


def _finding(command: Command, effect: str) -> Finding:
    return Finding(
        "power",
        "restart" if effect == _RESTARTS else "stop",
        effect,
        command.argv,
        (REBOOT,) if effect == _RESTARTS else (SHUTDOWN,),
    )


@judges("shutdown")
def shuts_down(command: Command) -> Finding | None:
    options = parse(command.arguments, short="t")
    if options.has("help", "version", "c", "show") or options.has("k"):
        return None
    return _finding(command, _RESTARTS if options.has("r", "reboot") and not options.has("h", "P", "H") else _STOPS)


@judges("poweroff", "halt", "reboot")
def powers_off(command: Command) -> Finding | None:
    options = parse(command.arguments)
    if options.has("help", "version", "w", "wtmp-only"):
        return None
    return _finding(command, _RESTARTS if command.name == "reboot" or options.has("reboot") else _STOPS)


@judges("init", "telinit")
def changes_runlevel(command: Command) -> Finding | None:
    level = next((argument for argument in command.arguments if not argument.startswith("-")), "")
    if level in ("0", "6", "1", "s", "S"):
        return _finding(command, _RESTARTS if level == "6" else _STOPS)
    return None


@judges("systemctl", "loginctl")
def asks_systemd(command: Command) -> Finding | None:
    options = parse(
        command.arguments,
        short="HMtpnosi" if command.name == "loginctl" else "HMtpno",
        long=("host", "machine", "type", "property", "lines", "output", "state", "kill-whom", "signal", "job-mode"),
    )
    if options.has("help", "version") or not options.operands:
        return None
    verb, *units = options.operands
    if effect := _VERBS.get(verb):
        return _finding(command, effect)
    started = {unit.removesuffix(".target") for unit in units if unit.endswith(".target") or verb == "isolate"}
    services = {unit.removesuffix(".service").removeprefix("systemd-") for unit in units if unit.startswith("systemd-")}
    if verb in ("start", "restart") and services & set(_VERBS):
        return _finding(command, _RESTARTS if "reboot" in services else _STOPS)
    if verb in ("isolate", "start", "set-default") and started & _TARGETS:
        return _finding(command, _RESTARTS if "reboot" in started else _STOPS)
    return None


@judges(">", ">>", ">|", "tee", "cp", "dd")
def triggers(command: Command) -> Finding | None:
    """Writing a letter to /proc/sysrq-trigger, or a sleep state to /sys/power/state."""
    targets = {"cp": command.arguments[-1:]}.get(command.name, command.arguments)
    if any(
        resolve(target.removeprefix("of="), command.folder) in ("/proc/sysrq-trigger", "/sys/power/state")
        for target in targets
    ):
        return _finding(command, _RESTARTS)
    return None


_BUS_VERBS = ("PowerOff", "Reboot", "Halt", "Suspend", "Hibernate", "HybridSleep", "KExec", "SetRebootParameter")


@judges("busctl", "dbus-send", "gdbus", "qdbus")
def asks_bus(command: Command) -> Finding | None:
    verbs = {word.rpartition(".")[2] for word in command.arguments}
    return _finding(command, _STOPS) if verbs & set(_BUS_VERBS) else None


@judges(
    "pm-suspend",
    "pm-hibernate",
    "pm-suspend-hybrid",
    "s2ram",
    "s2disk",
    "zzz",
    "ZZZ",
    "systemd-halt",
    "fasthalt",
    "fastboot",
    "uadmin",
)
def sleeps(command: Command) -> Finding | None:
    return None if parse(command.arguments).has("help", "version") else _finding(command, _STOPS)


@judges("rtcwake")
def sleeps_for(command: Command) -> Finding | None:
    mode = parse(command.arguments, short="mst", long=("mode", "seconds", "time")).value("m", "mode") or "standby"
    return _finding(command, _STOPS) if mode not in ("no", "on", "show", "disable") else None


@judges("kexec")
def starts_kernel(command: Command) -> Finding | None:
    return _finding(command, _RESTARTS) if {"-e", "--exec", "-f", "--force"} & set(command.arguments) else None


@judges("ipmi-power", "ipmipower")
def switches_power(command: Command) -> Finding | None:
    words = set(command.arguments)
    off = words & {"--off", "-f", "--cycle", "-c", "--reset", "-r", "--soft", "--pulse", "-p"}
    return _finding(command, _STOPS) if off else None


@judges("systemctl")
def kills_first(command: Command) -> Finding | None:
    words = set(command.arguments)
    return _finding(command, _STOPS) if "kill" in words and words & {"init.scope", "-.slice", "system.slice"} else None


@judges("ipmitool")
def asks_management_controller(command: Command) -> Finding | None:
    words = [word for word in command.arguments if not word.startswith("-")]
    after = words[words.index("power") + 1 :] if "power" in words else []
    return _finding(command, _RESTARTS) if set(after[:1]) & {"off", "cycle", "reset", "soft", "diag"} else None
