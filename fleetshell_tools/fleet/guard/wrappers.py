"""Programs that run another program: their options as data, and how to find the command inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleetshell_tools.fleet.guard.options import Options, parse


@dataclass(frozen=True)
class Wrapper:
    """How a wrapper's command line is read.

    Args:
        short: One-letter options that take a value.
        long: Long options that take a value in the next argument.
        operands: How many operands stand before the command.
        assignments: `NAME=value` words may stand before the command.
        code: Options whose value is shell code (`su -c`); `env -S` too.
        joined: The operands are joined to one line of shell code, as `watch` and `ssh` do.
        asks: Options with which it only reports (`sudo -l`, `command -v`).
        reads: Without a command it reads shell code from stdin, or starts a shell that does.
    """

    short: str = ""
    long: tuple[str, ...] = ()
    operands: int = 0
    assignments: bool = False
    code: tuple[str, ...] = ()
    joined: bool = False
    asks: tuple[str, ...] = ()
    reads: bool = False


@dataclass(frozen=True)
class Inner:
    """What a wrapper would run: words, or shell code, or what it reads from stdin."""

    argv: tuple[str, ...] = ()
    code: str | None = None
    reads_stdin: bool = False


WRAPPERS: dict[str, Wrapper] = {
    "sudo": Wrapper(
        "ugpCchDRTUrt",
        (
            "user",
            "group",
            "prompt",
            "chdir",
            "host",
            "chroot",
            "other-user",
            "role",
            "type",
            "close-from",
            "command-timeout",
        ),
        assignments=True,
        asks=("l", "list", "v", "validate", "k", "K", "V", "version", "help", "e", "edit"),
        reads=True,
    ),
    "doas": Wrapper("uC", asks=("L",), reads=True),
    "su": Wrapper(
        "cgGswT",
        ("command", "session-command", "group", "supp-group", "shell", "whitelist-environment"),
        operands=99,
        code=("c", "command", "session-command"),
        reads=True,
    ),
    "runuser": Wrapper(
        "cgGsuw",
        ("command", "session-command", "group", "supp-group", "shell", "user"),
        code=("c", "command", "session-command"),
    ),
    "pkexec": Wrapper("u", ("user",), asks=("version", "help")),
    "env": Wrapper("uCS", ("unset", "chdir", "split-string"), assignments=True, code=("S", "split-string")),
    "nice": Wrapper("n", ("adjustment",)),
    "ionice": Wrapper("cnpPu", ("class", "classdata", "pid", "pgid", "uid")),
    "chrt": Wrapper("TPDp", ("sched-runtime", "sched-deadline", "sched-period", "pid"), operands=1),
    "taskset": Wrapper("p", ("pid",), operands=1),
    "numactl": Wrapper(
        "CNmipP", ("cpunodebind", "physcpubind", "membind", "interleave", "preferred"), asks=("s", "H", "show")
    ),
    "nohup": Wrapper(),
    "setsid": Wrapper(),
    "setarch": Wrapper(operands=1),
    "linux32": Wrapper(),
    "linux64": Wrapper(),
    "setpriv": Wrapper(long=("reuid", "regid", "groups", "ruid", "euid", "inh-caps", "bounding-set", "ambient-caps")),
    "prlimit": Wrapper("p", ("pid", "output")),
    "timeout": Wrapper("sk", ("signal", "kill-after"), operands=1),
    "time": Wrapper("fo", ("format", "output")),
    "stdbuf": Wrapper("ioe", ("input", "output", "error")),
    "unbuffer": Wrapper(),
    "command": Wrapper(asks=("v", "V")),
    "builtin": Wrapper(),
    "exec": Wrapper("a"),
    "busybox": Wrapper(asks=("list", "list-full", "help")),
    "toybox": Wrapper(asks=("help", "version")),
    "systemd-run": Wrapper(
        "uptGHMEd",
        (
            "unit",
            "property",
            "description",
            "slice",
            "setenv",
            "uid",
            "gid",
            "nice",
            "host",
            "machine",
            "service-type",
            "working-directory",
            "on-active",
            "on-calendar",
            "on-boot",
            "on-startup",
            "on-unit-active",
            "timer-property",
            "path-property",
        ),
    ),
    "systemd-inhibit": Wrapper(long=("what", "who", "why", "mode"), asks=("list",)),
    "systemd-cat": Wrapper("tp", ("identifier", "priority")),
    "unshare": Wrapper("RwSG", ("root", "wd", "setuid", "setgid", "map-user", "map-group", "propagation", "setgroups")),
    "nsenter": Wrapper("tSG", ("target", "setuid", "setgid")),
    "chroot": Wrapper(long=("userspec", "groups"), operands=1, reads=True),
    "arch-chroot": Wrapper("u", operands=1),
    "strace": Wrapper("eopsaIuPESOXb", ("trace", "output", "attach")),
    "ltrace": Wrapper("eopsauln", ("output",)),
    "watch": Wrapper("nqs", ("interval", "equexit"), joined=True),
    "script": Wrapper("cEIOBTtmo", ("command", "log-out"), code=("c", "command"), operands=99),
    "flock": Wrapper("cwE", ("command", "timeout", "conflict-exit-code"), operands=1, code=("c", "command")),
    "sg": Wrapper("c", operands=1, joined=True, code=("c",)),
    "eval": Wrapper(joined=True),
    "ssh": Wrapper("BbcDEeFIiJLlmOopQRSWw", operands=1, joined=True, asks=("V", "G", "Q", "N", "O"), reads=True),
    "sshpass": Wrapper("pfdP"),
    "mosh": Wrapper("p", ("ssh", "port"), operands=1, joined=True),
    "at": Wrapper("fqtvMmu", operands=99, reads=True, asks=("l", "d", "r", "c", "V")),
    "batch": Wrapper("fq", operands=99, reads=True),
    "daemonize": Wrapper("acelopuE"),
    "start-stop-daemon": Wrapper(
        "xapnuscgdrNCIRk", ("exec", "startas", "pidfile", "name", "user", "signal", "chuid", "chdir")
    ),
    "dbus-run-session": Wrapper(),
    "xvfb-run": Wrapper("enfps", ("error-file", "server-num", "server-args")),
    "proxychains": Wrapper("f"),
    "torsocks": Wrapper(),
    "firejail": Wrapper(),
    "chronic": Wrapper(),
    "fakeroot": Wrapper("lis"),
    "cgexec": Wrapper("g"),
    **dict.fromkeys("eatmydata nocache catchsegv valgrind ccache distcc rlwrap gosu".split(), Wrapper()),
    "gosu": Wrapper(operands=1),
    "su-exec": Wrapper(operands=1),
    "setuidgid": Wrapper(operands=1),
    "chpst": Wrapper("uUbemdofpctn12"),
    "runcon": Wrapper("utrl", operands=1),
    "proot": Wrapper("rbwqm", ("rootfs", "bind", "cwd")),
    "faketime": Wrapper("f", operands=1),
    "capsh": Wrapper("c", code=("c",)),
    "newgrp": Wrapper(operands=99, reads=True),
    "entr": Wrapper(),
    "tini": Wrapper("pe"),
    "dumb-init": Wrapper("r"),
    "bundle": Wrapper(operands=1),
    "pipenv": Wrapper(operands=1),
    "poetry": Wrapper(operands=1),
    "aws-vault": Wrapper(operands=2),
    "cpulimit": Wrapper("lpe", ("limit", "pid", "exe")),
    "trickle": Wrapper("uds"),
    "proxychains4": Wrapper("f"),
    "tsocks": Wrapper(),
    "hyperfine": Wrapper("wrmMps", ("warmup", "runs", "prepare"), joined=True),
    "perf": Wrapper("eopFgC", ("event", "output"), operands=1),
    "bwrap": Wrapper(long=("uid", "gid", "chdir", "setenv", "hostname", "tmpfs", "proc", "dev", "dir")),
    "systemd-nspawn": Wrapper("DiMupS", ("directory", "image", "machine", "user")),
    "dbus-launch": Wrapper(),
    "sem": Wrapper("j", ("id", "jobs"), joined=True),
    "tsp": Wrapper(),
    "scl": Wrapper(operands=2, joined=True),
    "noglob": Wrapper(),
    "nocorrect": Wrapper(),
}


def unwrap(argv: Sequence[str]) -> Inner | None:
    """The command inside a wrapper's command line; None where `argv` is no wrapper or runs nothing."""
    # Without --user, runuser reads its command line as su does.
    as_su = argv[0] == "runuser" and not any(word.startswith(("-u", "--user")) for word in argv)
    wrapper = WRAPPERS.get("su" if as_su else argv[0])
    if wrapper is None:
        return None
    options = _options(argv[1:], wrapper)
    if any(name in options.values for name in wrapper.asks):
        return None
    code = options.value(*wrapper.code) if wrapper.code else None
    rest = options.operands[wrapper.operands :]
    if code is not None:
        return Inner(code=" ".join([code, *rest]) if argv[0] == "env" else code)
    while wrapper.assignments and rest and "=" in rest[0].lstrip("=") and not rest[0].startswith(("/", "-")):
        rest = rest[1:]
    if not rest:
        return Inner(reads_stdin=True) if wrapper.reads else None
    return Inner(code=" ".join(rest)) if wrapper.joined else Inner(argv=tuple(rest))


def _options(arguments: Sequence[str], wrapper: Wrapper) -> Options:
    """Read options before, between and (of `su user -c CODE`) after the operands that precede the command."""
    options = parse(arguments, short=wrapper.short, long=wrapper.long, to_operand=True)
    for count in range(1, wrapper.operands + 1):
        if count >= len(options.operands):
            break
        if options.operands[count].startswith("-"):
            after = parse(options.operands[count:], short=wrapper.short, long=wrapper.long, to_operand=True)
            options.values.update(after.values)
            options.operands[count:] = after.operands
    return options
