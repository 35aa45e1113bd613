"""Which programs only read, and with which options or verbs: tables for servers whose policy is `read_only`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.symbols import MARKS, shown
from fleetshell_tools.fleet.guard.wrappers import WRAPPERS

_ALWAYS = frozenset(
    "cat tac nl head tail wc cut paste join comm diff cmp diff3 sdiff fold fmt column expand unexpand rev od hexdump strings "
    "grep egrep fgrep zgrep zcat bzcat xzcat zstdcat zless bzgrep xzgrep ag rg jq yq ls dir vdir tree stat file du df lsblk findmnt lsof "
    "pwd basename dirname realpath readlink echo printf true false test [ : seq sleep expr bc yes nproc arch uname "
    "id whoami who w users groups logname last lastb lastlog getent uptime free vmstat iostat mpstat pidstat sar ps pstree pgrep pidof "
    "top htop atop slabtop numastat lscpu lsmem lspci lsusb lshw dmidecode lsmod modinfo lsns lsipc ipcs blkid "
    "ss netstat nslookup dig host whois traceroute tracepath mtr ping ping6 arp getcap getfacl lsattr namei md5sum sha1sum "
    "sha224sum sha256sum sha384sum sha512sum b2sum cksum sum base64 base32 xxd tr sort uniq which whereis type "
    "locate apropos whatis man info cal locale printenv getconf tty nvidia-smi sensors smartctl-scan pvs vgs lvs "
    "pvdisplay vgdisplay lvdisplay pvscan lvscan mdstat chronyc-tracking ntpq aa-status sestatus getenforce auditctl-l aureport ausearch "
    "apt-cache dpkg-query rpmquery nginx-check cd pushd popd dirs shopt set read local export declare typeset readonly return exit break "
    "continue wait unset shift let hash alias command builtin getopts times ulimit umask mysqldumpslow loginctl-show cmp iotop nethogs "
    "iftop bmon lslogins faillog chage-l zfs-get numfmt factor shuf tsort csplit-n pr ncdu w3m-dump exa eza bat fzf-f rpm-q".split()
)  # fmt: skip
"""With any options; those of a few that write are in _NEVER."""

_NEVER: dict[str, str] = {
    "sort": r"-[a-zA-Z]*o.*|--output.*|--compress-program.*",
    "uniq": r"[^-+].*\s[^-+].*",
    "tree": r"-[a-zA-Z]*o.*|-R",
    "date": r"-s.*|--set.*|[^+-].*",
    "hostname": r"[^-].*|-[Fb].*",
    "ss": r"-[a-zA-Z]*K.*|--kill",
    "yq": r"-i|--inplace|-[a-zA-Z]*i[a-zA-Z]*",
    "xxd": r"-r.*|-revert",
    "dmesg": r"-[a-zA-Z]*[cCDEn].*|--clear|--read-clear|--console-.*",
    "journalctl": r"--(?:vacuum|rotate|flush|sync|relinquish|smart|setup|update|force).*",
    "find": r"-delete|-fprint.*|-fls",
    "rg": r"--pre.*|--hostname-bin.*",
    "bat": r"--pager.*",
    "man": r"-P.*|--pager.*|-H.*",
    "sed": r"-[a-zA-Z]*i.*|--in-place.*|-[a-zA-Z]*s?f.*|--file.*",
    "nginx": r"-(?!t$|T$|v$|V$|h$).*|[^-].*",
    "curl": r"-(?!-)[a-zA-Z]*[oOTdFXKcDQE].*|--(?!(?:head|silent|show-error|fail|location|max-time|connect-timeout|insecure|verbose|"
    r"header|user-agent|compressed|include|get|http.*|ipv.|retry|write-out|noproxy|resolve)(?:=|$)).*",
    "getent": r"-s.*",
    "mount": r"[^-].*|-(?!l$|h$|V$).*",
    "sysctl": r"-w|--write|-p.*|--load.*|--system|[^=]+=.*",
    "fdisk": r"-(?!l$|-list$|x$).*",
    "smartctl": r"-[tsoSX].*|--test.*|--smart.*|--offline.*|--saveauto.*|--abort.*|--set.*",
    "dig": r"-f.*",
    "tcpdump": r"-[a-zA-Z]*[wzWGC].*",
    "ip": r"-(?:b|batch|force).*",
    "arp": r"-[sdf].*",
    "lastlog": r"-[CS].*|--clear.*|--set.*",
    "faillog": r"-[rmla].*",
    "top": r"-(?!b$|n$|bn.*|o$|p$|u$|c$|H$|w$).*",
    "locate": r"-(?!i$|c$|n$).*",
    "hash": r"-[prd].*",
    "tar": r"-?[a-zA-Z]*[cxruA].*(?<!=)|--(?!list|file|gzip|verbose|zstd).*",
    "netstat": r"--set.*",
    "lshw": r"-dump.*",
    "dmidecode": r"--dump-bin.*",
    "nvidia-smi": r"-(?!q$|L$|l$|i$).*|--(?!query|format|list).*",
    "sar": r"-o.*",
    "ntpq": r"-c.*(?<!peers)",
    "bc": r"-.*",
    "iotop": r"-(?!b|n|o).*",
    "ping": r"-f.*",
    "mtr": r"(?!-|[\w.:]).*",
    "chronyc": r"(?!tracking$|sources$|sourcestats$|-n$|activity$).*",
    "timedatectl": r"(?!status$|show$|timesync-status$|list-timezones$|-).*",
    "hostnamectl": r"(?!status$|--json).*",
    "localectl": r"(?!status$|list-).*",
    "loginctl": r"(?!list-|show-|session-status$|user-status$|seat-status$|[\w.@-]+$).*|terminate.*|kill.*|lock.*|unlock.*|activate|enable.*|disable.*|flush.*|attach",
    "ifconfig": r"up|down|\d.*|add|del|netmask|mtu|hw|promisc|-?arp",
    "route": r"add|del|delete|flush",
    "postconf": r"-[eX#].*",
    "lvs": r"--config.*",
    "pvs": r"--config.*",
    "vgs": r"--config.*",
    "unzip": r"-(?!l$|v$|t$|Z$).*",
    "openssl": r"(?!x509$|s_client$|version$|verify$|dgst$|-(?!out|sign|engine|provider)).*(?<![\w./:-])|-out|-sign|-engine",
    "apachectl": r"(?!configtest$|-t$|-S$|-v$|-V$|-M$|status$|fullstatus$).*",
    "sshd": r"-(?!t$|T$).*|[^-].*",
    "visudo": r"-(?!c$).*|[^-].*",
    "chage": r"-(?!l$).*",
    "passwd": r"-(?!S$).*",
    "swapon": r"-(?!s$|-show).*|[^-].*",
    "exportfs": r"-(?!v$|s$).*|[^-].*",
    "parted": r"(?!-l$|-s$|--script$|/dev/|print$|unit$|free$|[kMGT]?i?B$|s$|%$).*",
    "hdparm": r"-(?!I$|i$|t$|T$|tT$).*",
    "mdadm": r"-(?!D$|E$|Q$|-detail|-examine|-query|-scan|s$).*",
    "ethtool": r"-(?!i$|k$|S$|g$|c$|a$|l$|T$|m$|-show).*",
}
"""Of programs that read with these exceptions: a pattern that no word may match (it is held against each word as a whole)."""

_VERBS: dict[str, str] = {
    "systemctl": "status show cat help is-active is-enabled is-failed is-system-running list-units list-unit-files list-timers "
    "list-sockets list-jobs list-dependencies list-machines list-paths list-automounts get-default show-environment",
    "service": "status --status-all",
    "docker": "ps logs inspect images stats top port version info history diff events search",
    "podman": "ps logs inspect images stats top port version info history diff",
    "docker compose": "ps logs images top config version ls port events",
    "docker container": "ls list inspect logs stats top port diff",
    "docker image": "ls list inspect history",
    "docker volume": "ls list inspect",
    "docker network": "ls list inspect",
    "docker system": "df info events",
    "docker-compose": "ps logs images top config version port",
    "kubectl": "get describe logs top version cluster-info api-resources api-versions explain events",
    "oc": "get describe logs status version whoami explain",
    "helm": "list ls status history get show version search env",
    "crictl": "ps images pods inspect logs stats info version",
    "git": "status log diff show blame shortlog describe rev-parse ls-files ls-tree rev-list cat-file grep reflog whatchanged",
    "ip": "",
    "apt": "list show search policy depends rdepends",
    "dnf": "list info search repolist check-update provides history repoquery",
    "yum": "list info search repolist check-update provides",
    "apk": "info list search policy version",
    "snap": "list info find services version",
    "pip": "list show freeze check --version",
    "pip3": "list show freeze check --version",
    "npm": "ls list outdated view --version",
    "zpool": "list status iostat get history",
    "zfs": "list get",
    "ufw": "status version show",
    "nft": "list",
    "firewall-cmd": "--state --list-all --list-services --list-ports --get-active-zones --list-all-zones --get-default-zone",
    "fail2ban-client": "status ping version",
    "supervisorctl": "status",
    "rabbitmqctl": "status list_queues list_users list_vhosts list_connections cluster_status",
    "networkctl": "status list lldp",
    "resolvectl": "status query statistics",
    "coredumpctl": "list info",
    "busctl": "list status tree introspect",
    "virsh": "list dominfo domstate dumpxml nodeinfo pool-list net-list vol-list",
    "nmcli": "",
    "pm2": "list ls status show describe info",
    "terraform": "show version output providers validate",
    "aws": "", "gcloud": "",
}  # fmt: skip
"""Programs whose first operand decides; those without verbs have a rule of their own, or read with none."""

_GLOBAL_VALUES = re.compile(
    r"(?:-C|-n|-f|-p|-H|-M|-t|-o|-l|--namespace|--context|--kubeconfig|--type|--state|--host|--git-dir|--work-tree)"
)
_WRITING = re.compile(
    r"--output(?:=.*)?|--ext-diff|--textconv|--exec.*|--open-files-in-pager.*|-O.*|--config.*|--upload-pack.*|-c"
)
_SHELLS = frozenset("sh bash dash ash ksh zsh".split())
_QUIET = frozenset(["time", "command", "builtin"])
_IP_VERBS = frozenset(["show", "list", "ls", "get", "lst", "sh", "s", "monitor"])
_IP_OBJECTS = frozenset(
    "a addr address l link r ro route ru rule n neigh neighbor netns maddr mroute tunnel tuntap token xfrm vrf".split()
)
_SQL_READS = re.compile(
    r"\s*(?:select|show|explain(?!\s+analyze)|describe|desc|\\[dlz+]\w*|\.tables|\.schema)\b[^;]*;?\s*", re.IGNORECASE
)
_SQL_WRITES = re.compile(r"\binto\b|\bfor\s+(?:update|share)\b|\bcopy\b", re.IGNORECASE)
_SQL_CALL = re.compile(r"(\w+)\s*\(")
_SQL_FUNCTIONS = frozenset(
    "count sum avg min max now coalesce length char_length lower upper date round concat substring substr left right abs ceil floor "
    "pg_size_pretty pg_database_size pg_total_relation_size pg_relation_size current_database version user database in values and or not "
    "group_concat string_agg distinct cast extract to_char date_trunc date_format datediff timestampdiff ifnull nullif if exists all any "
    "from_unixtime unix_timestamp interval as age row_number over rank current_setting format trim replace json_extract on using where "
    "having by select from join".split()
)
_REDIS = frozenset(
    "ping info dbsize get mget keys scan ttl type exists strlen llen lrange smembers scard hget hgetall zrange zcard client slowlog memory lastsave time --scan".split()
)
_AWK_WRITES = re.compile(r"system\s*\(|getline|print[^;}]*[>|]|\|&|close\s*\(|@load|\bextension\s*\(")
_SED_WRITES = re.compile(
    r"(?:^|[;{}\s\d$/])[wWeE]\s|(?:^|[;{\n])\s*(?:\d+|\$|/[^/]*/)?\s*[wWerR]\b|s(.).*\1.*\1[gpiIm\d]*[we]"
)


def reads(words: Sequence[str]) -> bool | None:
    """Whether a command only reads: True, or None where that is not known.

    Wrappers (`sudo`, `timeout`) and `sh -c` count as reading, because what they run is asked about by itself.
    """
    name, arguments = words[0], [shown(word) for word in words[1:]]
    if name in _NEVER and any(word.startswith(tuple(MARKS)) for word in words[1:]):
        return None  # What is not known might be one of the options that write.
    if name in _OWN:
        return _OWN[name](arguments) or None
    if name in _VERBS:
        return _by_verb(name, arguments) or None
    if name in _NEVER or name in _ALWAYS:
        pattern = _NEVER.get(name)
        refused = pattern is not None and any(re.fullmatch(pattern, word) for word in arguments)
        return None if refused else True
    if name in WRAPPERS and name not in (
        "script",
        "at",
        "batch",
        "ssh",
        "mosh",
        "sshpass",
        "daemonize",
        "start-stop-daemon",
        "unshare",
    ):
        return True
    return None


def _by_verb(name: str, arguments: list[str]) -> bool:
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        if rest[0] in _VERBS[name].split():
            return True
        if _WRITING.fullmatch(rest[0]):
            return False
        del rest[: 2 if _GLOBAL_VALUES.fullmatch(rest[0]) and len(rest) > 1 else 1]
    if not rest:
        return name == "systemctl" and not {"--force"} & set(arguments)
    if f"{name} {rest[0]}" in _VERBS:
        return _by_verb(f"{name} {rest[0]}", rest[1:])
    if name == "service" and len(rest) > 1:
        return rest[1] == "status"
    return rest[0] in _VERBS[name].split() and not any(_WRITING.fullmatch(word) for word in rest[1:] if name == "git")


def _shell(arguments: list[str]) -> bool:
    """Only `sh -c CODE`, or code on stdin that is known: a script in a file is not."""
    operands = [word for word in arguments if not word.startswith("-")]
    return any(re.fullmatch(r"-[a-z]*c", word) for word in arguments) or not operands


def _xargs(arguments: list[str]) -> bool:
    return True  # what it runs is asked about by itself


def _ip(arguments: list[str]) -> bool:
    words = [word for word in arguments if not word.startswith("-")]
    if any(re.fullmatch(r"-(?:b|batch|force).*", word) for word in arguments):
        return False
    return not words or (words[0] in _IP_OBJECTS and (len(words) == 1 or words[1] in _IP_VERBS))


def _awk(arguments: list[str]) -> bool:
    if any(
        re.match(r"-[a-zA-Z]*[fiElo]|--file|--exec|--include|--load", word) and not word.startswith("-F")
        for word in arguments
    ):
        return False
    return not any(_AWK_WRITES.search(word) for word in arguments)


def _sed(arguments: list[str]) -> bool:
    if any(re.fullmatch(_NEVER["sed"], word) for word in arguments):
        return False
    return not any(_SED_WRITES.search(word) for word in arguments if not word.startswith("/"))


def _sql(arguments: list[str]) -> bool:
    """Statements on the command line, all of which select or show."""
    statements = []
    for position, word in enumerate(arguments):
        if re.fullmatch(r"-[A-Za-z]*[ec]", word) or word in ("--execute", "--command"):
            statements += arguments[position + 1 : position + 2]
        elif match := re.match(r"--(?:execute|command)=(.*)", word, re.DOTALL):
            statements.append(match[1])
        elif re.match(r"-[fo]|--file|--output|--tee|--init", word):
            return False
    parts = [part for statement in statements for part in statement.split(";") if part.strip()]
    return bool(parts) and all(_only_selects(part) for part in parts)


def _only_selects(statement: str) -> bool:
    """A statement that selects or shows, and calls no function that could do more."""
    calls = {name.lower() for name in _SQL_CALL.findall(re.sub(r"'[^']*'", "", statement))}
    return bool(_SQL_READS.fullmatch(statement)) and not _SQL_WRITES.search(statement) and calls <= _SQL_FUNCTIONS


def _crontab(arguments: list[str]) -> bool:
    options = parse(arguments, short="u")
    return options.has("l") and set(options.values) <= {"l", "u"} and not options.operands


def _redis(arguments: list[str]) -> bool:
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "--scan":
        del rest[: 2 if rest[0] in ("-h", "-p", "-n", "-a", "-u", "--user", "--pass") else 1]
    if rest[:1] in (["client"], ["slowlog"], ["memory"]) and rest[1:2] not in (
        ["list"],
        ["get"],
        ["usage"],
        ["stats"],
        ["info"],
    ):
        return False
    return bool(rest) and rest[0].lower() in _REDIS


def _dpkg(arguments: list[str]) -> bool:
    return (
        bool(arguments)
        and re.fullmatch(
            r"-[lLsSpc]|--list.*|--status|--search|--print-.*|--get-selections|--audit|-C|--verify", arguments[0]
        )
        is not None
    )


def _rpm(arguments: list[str]) -> bool:
    return (
        bool(arguments)
        and re.fullmatch(r"-[qV][a-zA-Z]*|--query|--verify", arguments[0]) is not None
        and "--import" not in arguments
    )


def _cloud(arguments: list[str]) -> bool:
    """`aws ec2 describe-instances`, `gcloud compute instances list`."""
    words = [word for word in arguments if not word.startswith("-")]
    reading = any(
        re.fullmatch(
            r"describe.*|list.*|get-caller-identity|get-(?:bucket|policy|role|user|metric)[\w-]*|ls|info", word
        )
        for word in words[:4]
    )
    writing = any(
        re.match(
            r"(?:create|delete|put|update|run|start|stop|reboot|terminate|cp|mv|rm|rb|mb|sync|set|add|remove|ssh|scp|deploy|modify)\b",
            word,
        )
        for word in words[:4]
    )
    return reading and not writing


def _nmcli(arguments: list[str]) -> bool:
    words = [word for word in arguments if not word.startswith("-")]
    return not words or ((len(words) == 1 or words[1] in ("show", "status", "list")) and words[0] in (
        "device", "dev", "d", "connection", "con", "c", "general", "g"
    ))  # fmt: skip


def _firewall(arguments: list[str]) -> bool:
    return bool(arguments) and not any(
        re.match(r"-[ADIRFZNXPE]|--(?:append|delete|insert|replace|flush|zero|new|policy|rename)", word) for word in arguments
    ) and any(re.match(r"-[a-zA-Z]*[LS]|--list", word) for word in arguments)  # fmt: skip


_OWN = {
    **dict.fromkeys(_SHELLS, _shell),
    **dict.fromkeys(["xargs", "parallel"], _xargs),
    **dict.fromkeys(["awk", "gawk", "mawk", "nawk"], _awk),
    **dict.fromkeys(["mysql", "mariadb", "psql"], _sql),
    **dict.fromkeys(["redis-cli", "valkey-cli"], _redis),
    **dict.fromkeys(["iptables", "ip6tables"], _firewall),
    **dict.fromkeys(["aws", "gcloud"], _cloud),
    "crontab": _crontab,
    "ip": _ip,
    "sed": _sed,
    "dpkg": _dpkg,
    "rpm": _rpm,
    "nmcli": _nmcli,
}
