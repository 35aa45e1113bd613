"""Environment variables that change what a command runs, refused in an act's environment."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleetshell_tools.fleet.guard.symbols import UNSET, is_known

_NAMES = frozenset(
    "PATH IFS ENV BASH_ENV SHELLOPTS BASHOPTS PROMPT_COMMAND PS0 PS1 PS2 PS4 CDPATH GLOBIGNORE EXECIGNORE ZDOTDIR FPATH "
    "PYTHONSTARTUP PYTHONPATH PYTHONHOME PYTHONINSPECT PYTHONBREAKPOINT PYTHONUSERBASE PERL5OPT PERL5LIB PERLLIB PERL5DB "
    "NODE_OPTIONS NODE_PATH RUBYOPT RUBYLIB JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS LUA_INIT LUA_PATH LUA_CPATH "
    "PHPRC PHP_INI_SCAN_DIR AWKPATH AWKLIBPATH GCONV_PATH GETCONF_DIR LOCPATH NLSPATH TERMINFO TERMCAP HOSTALIASES "
    "PAGER MANPAGER SYSTEMD_PAGER EDITOR VISUAL SUDO_EDITOR SUDO_ASKPASS SSH_ASKPASS BROWSER LESSOPEN LESSCLOSE "
    "RSYNC_RSH CVS_RSH TAR_OPTIONS MAKEFLAGS MAKEFILES OPENSSL_CONF OPENSSL_MODULES".split()
)
_PREFIXES = ("LD_", "DYLD_", "BASH_FUNC_", "GIT_", "LUA_INIT", "GLIBC_TUNABLES", "npm_config_", "NPM_CONFIG_")
_HARMLESS = frozenset(
    [
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_AUTHOR_DATE",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
        "GIT_COMMITTER_DATE",
        "GIT_TERMINAL_PROMPT",
        "GIT_DIR",
        "GIT_WORK_TREE",
    ]
)


_DECIDING = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "PERL5LIB", "RUBYLIB", "NODE_PATH", "CDPATH")
_PRELOADING = ("LD_PRELOAD", "LD_AUDIT", "DYLD_INSERT_LIBRARIES")
_SYSTEM = ("/usr/", "/lib/", "/lib64/", "/opt/", "/snap/")
_ANYBODYS = re.compile(r"\.{0,2}|\.{1,2}/.*|/(?:tmp|var/tmp|dev/shm)(?:/.*)?")
_START_FILES = (
    "BASH_ENV",
    "ENV",
    "PYTHONSTARTUP",
    "PERL5DB",
    "PERL5OPT",
    "RUBYOPT",
    "SHELLOPTS",
    "GCONV_PATH",
    "LD_DEBUG_OUTPUT",
)
RUN_BY_OTHERS = frozenset(
    "PAGER GIT_PAGER MANPAGER SYSTEMD_PAGER EDITOR VISUAL GIT_EDITOR SUDO_EDITOR GIT_SSH_COMMAND GIT_EXTERNAL_DIFF RSYNC_RSH "
    "PROMPT_COMMAND LESSOPEN BROWSER GIT_ASKPASS SSH_ASKPASS SUDO_ASKPASS".split()
)
"""Variables whose value is a command that another program runs."""


def dubious_assignment(name: str, value: str) -> bool:
    """Would an assignment in front of a command, or exported, have code run from where anybody may put it?

    Here, unlike in an act's `environment`, the value is seen in the command's text and decides: `PATH=$PATH:/opt/go/bin`
    is daily work.
    """
    if name in _DECIDING:
        return any(UNSET not in entry and _ANYBODYS.fullmatch(entry) for entry in value.split(":")) and bool(value)
    if name in _PRELOADING:
        entries = value.replace(":", " ").split()
        return any(not entry.startswith(_SYSTEM) and ("/" in entry or not is_known(entry)) for entry in entries)
    if name == "NODE_OPTIONS":
        return any(word in value for word in ("--require", "-r ", "--import", "--loader"))
    return name in _START_FILES and value not in ("", "-w", "-W0") and not value.startswith("/etc/")


def refused_variable(environment: Mapping[str, str]) -> str | None:
    """The first variable, by name, that decides which code runs; None where all are harmless."""
    return next(
        (
            name
            for name in sorted(environment)
            if name not in _HARMLESS and (name in _NAMES or name.startswith(_PREFIXES))
        ),
        None,
    )
