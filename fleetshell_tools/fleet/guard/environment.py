"""Environment variables that change what a command runs, refused in an act's environment."""

from __future__ import annotations

from collections.abc import Mapping

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
