"""What a host is and how it is: the program that asks it in one round trip, and what it prints taken apart."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from fleetshell_tools.core import proc
from fleetshell_tools.core.scripts import Ran, Script
from fleetshell_tools.core.text import one_line

ADDRESSES = 20
UNITS = 20
"""Addresses and failed units that are shown."""

_SCRIPT = r"""
now() {
  t=$(date +%s.%N 2>/dev/null)
  case $t in *[!0-9.]*|*.|'') t=$(date +%s) ;; esac
  echo "$1=$t"
}
if [ -n "$timeout" ] && ! timeout 3 true 2>/dev/null; then timeout=; fi
limit() { s=$1; shift; ${timeout:+timeout -s KILL $s} "$@"; }
part clock
now first
date '+zone=%z %Z'
part release
[ -n "$os_id" ] || cat /etc/redhat-release /etc/alpine-release /etc/debian_version 2>/dev/null | head -n 1
[ "$kernel" != Darwin ] || sw_vers 2>/dev/null
part proc
first() { { read -r l <"$2"; } 2>/dev/null && printf '%s=%s\n' "$1" "$l"; }
first uptime /proc/uptime
first loadavg /proc/loadavg
part meminfo
cat /proc/meminfo 2>/dev/null
part cpuinfo
grep -E '^(processor|model name|cpu model|cpu|uarch|Processor|Hardware|Model)[^a-z]' /proc/cpuinfo 2>/dev/null
part sysctl
[ "$kernel" = Linux ] || sysctl kern.boottime hw.ncpu hw.physmem hw.memsize hw.model machdep.cpu.brand_string vm.loadavg 2>/dev/null
part virt
if has systemd-detect-virt; then
  echo "vm=$(systemd-detect-virt --vm 2>/dev/null)"
  echo "container=$(systemd-detect-virt --container 2>/dev/null)"
fi
for f in sys_vendor product_name; do first $f /sys/class/dmi/id/$f; done
first hypervisor /sys/hypervisor/type
grep -q '^flags.* hypervisor' /proc/cpuinfo 2>/dev/null && echo "flag=1"
[ ! -e /.dockerenv ] || echo hint=docker
[ ! -e /run/.containerenv ] || echo hint=podman
[ ! -r /run/systemd/container ] || echo "hint=$(cat /run/systemd/container)"
[ ! -d /proc/vz ] || [ -d /proc/bc ] || echo hint=openvz
l=$(tr '\000' '\n' 2>/dev/null </proc/1/environ | sed -n 's/^container=//p')
[ -z "$l" ] || echo "hint=$l"
l=$(grep -oE 'kubepods|docker|lxc' /proc/1/cgroup 2>/dev/null | head -n 1)
[ -z "$l" ] || echo "hint=$l"
part limits
for f in cpu.max memory.max; do first $f /sys/fs/cgroup/$f; done
part sync
if [ -n "$systemd" ] && has timedatectl; then limit 5 timedatectl show 2>/dev/null; fi
part chrony
if has chronyc; then limit 5 chronyc -n -c tracking 2>/dev/null; fi
part adjtimex
if has adjtimex; then limit 5 adjtimex 2>/dev/null || limit 5 adjtimex -p 2>/dev/null; fi
part reboot
for f in /run/reboot-required /var/run/reboot-required; do [ ! -e $f ] || { echo "file=$f"; break; }; done
for f in /run/reboot-required.pkgs /var/run/reboot-required.pkgs; do
  [ ! -r $f ] || { echo "packages=$(sort -u $f | head -n 20 | tr '\n' ' ')"; break; }
done
[ ! -e /var/lib/update-notifier ] && [ ! -e /usr/share/unattended-upgrades ] || echo kept=1
if has needs-restarting; then
  limit 8 needs-restarting -r >/dev/null 2>&1
  echo "needs=$?"
fi
part modules
for d in /lib/modules/*/ /usr/lib/modules/*/; do
  [ -e "${d}modules.dep" ] || [ -e "${d}modules.order" ] || continue
  d=${d%/} && printf '%s\n' "${d##*/}"
done
part units
if [ -n "$systemd" ]; then
  limit 8 systemctl list-units --state=failed --plain --no-legend --no-pager 2>/dev/null && echo "= told"
fi
part users
if [ -s /run/utmp ] || [ -s /var/run/utmp ]; then has who && who | sed 's/^/who /'
elif [ -n "$systemd" ] && has loginctl; then limit 5 loginctl list-sessions --no-legend 2>/dev/null | sed 's/^/session /'; echo asked
elif [ "$kernel" != Linux ]; then who | sed 's/^/who /'; echo asked
fi
part addresses
if has ip; then ip -o addr show 2>/dev/null; else ifconfig -a 2>/dev/null; fi
part updates
cat /var/lib/update-notifier/updates-available 2>/dev/null
part clock
now last
"""
SCRIPT = Script("get_system_info", _SCRIPT)


@dataclass(frozen=True)
class Host:
    """A host as the tool shows it; every value that is None has its reason in `unknown`, by the same name."""

    values: dict[str, Any]
    unknown: dict[str, str]
    warnings: list[str] = field(default_factory=list)


class _Reader:
    """Collects the reasons while the parts are taken apart."""

    def __init__(self, ran: Ran) -> None:
        self.ran, self.facts = ran, ran.facts
        self.linux = self.facts["kernel"] in ("Linux", "")
        self.unknown: dict[str, str] = {}
        self.warnings: list[str] = []
        self.sysctl: dict[str, str] = {}
        for line in ran.lines("sysctl"):
            if match := re.match(r"([\w.]+)(?:: |=)(.*)", line):
                self.sysctl[match[1]] = match[2].strip()

    def missing(self, name: str, why: str) -> None:
        """`name` is null; the reason."""
        self.unknown[name] = why


def parse(ran: Ran, began: float, ended: float) -> Host:
    """Take apart what the program printed.

    Args:
        began, ended: The relay's clock, in seconds since the epoch, before and after the program ran.
    """
    reader = _Reader(ran)
    clock = _clock(reader, began, ended)
    container = _virtualisation(reader)
    values: dict[str, Any] = {
        "hostname": one_line(ran.facts["host"], 255) or None,
        "os": _system(reader),
        "kernel": " ".join(filter(None, (ran.facts["kernel"], ran.facts["release"]))) or None,
        "architecture": ran.facts["machine"] or None,
        "virtualisation": container,
        "cpu": _cpu(reader),
        "memory": _memory(reader),
        **_uptime(reader, clock["epoch"]),
        "time": {key: value for key, value in clock.items() if key != "epoch"},
        "reboot": _reboot(reader, container["container"] not in (None, "none")),
        "failed_units": _failed(reader),
        "logged_in": _users(reader),
        "addresses": _addresses(reader),
        "updates": _updates(reader),
    }
    for name in ("hostname", "kernel", "architecture"):
        if values[name] is None:
            reader.missing(name, "uname did not tell")
    return Host(values, reader.unknown, reader.warnings)


def _system(reader: _Reader) -> dict[str, Any]:
    facts, release = reader.facts, reader.ran.lines("release")
    mac = proc.status(reader.ran.part("release")) if facts["kernel"] == "Darwin" else {}
    product = f"{mac.get('ProductName', '')} {mac.get('ProductVersion', '')}".strip()
    name = facts["os_name"] or product or (release[0] if release else "") or facts["kernel"]
    digits = re.search(r"\d[\d.]*", name)
    version = facts["os_version"] or mac.get("ProductVersion", "") or (digits[0] if digits else "")
    if not version and not reader.linux:
        version = facts["release"]
    found = {"name": one_line(name) or None, "version": version or None, "id": facts["os_id"] or None}
    for key, value in found.items():
        if value is None:
            reader.missing(
                f"os.{key}", "the host has no os-release" if not facts["os_id"] else "os-release does not say"
            )
    return found


def _virtualisation(reader: _Reader) -> dict[str, Any]:
    found = reader.ran.fields("virt")
    container = found.get("container") or found.get("hint") or ""
    machine = found.get("vm") or ""
    if not machine:
        vendor = f"{found.get('sys_vendor', '')} {found.get('product_name', '')}"
        known = (
            ("KVM", "kvm"), ("QEMU", "qemu"), ("VMware", "vmware"), ("VirtualBox", "oracle"), ("innotek", "oracle"),
            ("Microsoft Corporation Virtual", "microsoft"), ("Xen", "xen"), ("Amazon EC2", "amazon"),
            ("Google", "google"), ("Parallels", "parallels"), ("OpenStack", "kvm"), ("Bochs", "bochs"),
        )  # fmt: skip
        machine = next((name for mark, name in known if mark.lower() in vendor.lower()), "")
        machine = machine or found.get("hypervisor", "") or ("unknown hypervisor" if found.get("flag") else "")
    # Bare metal has a vendor and says nothing of a hypervisor; a container may see neither.
    if not machine and found.get("sys_vendor"):
        machine = "none"
    if not machine:
        reader.missing("virtualisation.machine", "neither systemd-detect-virt nor DMI tells")
    if not container:
        reader.missing("virtualisation.container", "nothing hints at one")
    return {"machine": machine or None, "container": one_line(container, 40) or None}


def _cpu(reader: _Reader) -> dict[str, Any]:
    model, count = proc.cpuinfo(reader.ran.part("cpuinfo"))
    load = proc.numbers(reader.ran.fields("proc").get("loadavg", ""), 3)
    sysctl = reader.sysctl
    model = model or sysctl.get("machdep.cpu.brand_string") or sysctl.get("hw.model")
    if count is None and sysctl.get("hw.ncpu", "").isdigit():
        count = int(sysctl["hw.ncpu"])
    load = load or proc.numbers(sysctl.get("vm.loadavg", "").strip("{ }"), 3)
    found: dict[str, Any] = {"model": one_line(model, 100) if model else None, "count": count, "load": load}
    for key, value in found.items():
        if value is None:
            where = (
                "/proc/cpuinfo does not name it" if reader.ran.part("cpuinfo") else "no /proc, and sysctl does not tell"
            )
            reader.missing(f"cpu.{key}", where)
    quota = reader.ran.fields("limits").get("cpu.max", "").split()
    if len(quota) == 2 and all(word.isdigit() for word in quota) and int(quota[1]):
        found["limit"] = round(int(quota[0]) / int(quota[1]), 2)
    if load and count and load[1] > 2 * count:
        reader.warnings.append(f"the load of 5 minutes, {load[1]:g}, is more than twice the {count} CPUs")
    return found


def _memory(reader: _Reader) -> dict[str, Any]:
    memory = proc.meminfo(reader.ran.part("meminfo"))
    total = memory.total
    for key in ("hw.memsize", "hw.physmem"):
        if total is None and reader.sysctl.get(key, "").isdigit():
            total = int(reader.sysctl[key])
    available = memory.available
    used = round(100 * (1 - available / total), 1) if total and available is not None else None
    found: dict[str, Any] = {
        "total_bytes": total,
        "available_bytes": available,
        "used_percent": used,
        "swap_total_bytes": memory.swap_total,
        "swap_free_bytes": memory.swap_free,
    }
    for key, value in found.items():
        if value is None:
            reader.missing(
                f"memory.{key}", "/proc/meminfo does not tell" if reader.linux else "no /proc on this system"
            )
    if memory.estimated:
        reader.missing("memory.available_bytes", "the kernel does not tell; it is reckoned as free, buffers and cached")
    limit = reader.ran.fields("limits").get("memory.max", "")
    if limit.isdigit():
        found["limit_bytes"] = int(limit)
    if used is not None and used > 95:
        reader.warnings.append(f"{used:g} % of the memory is used")
    if memory.swap_total and memory.swap_free is not None and memory.swap_free < memory.swap_total / 5:
        reader.warnings.append(f"{100 - 100 * memory.swap_free / memory.swap_total:.0f} % of the swap is used")
    return found


def _uptime(reader: _Reader, epoch: float | None) -> dict[str, Any]:
    uptime = proc.numbers(reader.ran.fields("proc").get("uptime", ""), 1)
    seconds = uptime[0] if uptime else None
    boot = re.search(r"sec = (\d+)", reader.sysctl.get("kern.boottime", "")) or re.fullmatch(
        r"(\d{9,})", reader.sysctl.get("kern.boottime", "")
    )
    if seconds is None and boot and epoch:
        seconds = epoch - int(boot[1])
    if seconds is None:
        for name in ("uptime_seconds", "boot_time"):
            reader.missing(name, "no /proc/uptime, and sysctl does not tell the time of the start")
        return {"uptime_seconds": None, "boot_time": None}
    if not epoch:
        reader.missing("boot_time", "date did not tell")
    return {"uptime_seconds": int(seconds), "boot_time": _iso(epoch - seconds) if epoch else None}


def _iso(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clock(reader: _Reader, began: float, ended: float) -> dict[str, Any]:
    """The host's time, whether it is kept right, and how far it is from the relay's."""
    fields = reader.ran.fields("clock")
    offset = accuracy = epoch = None
    try:
        first, epoch = float(fields["first"]), float(fields["last"])
    except (KeyError, ValueError):
        for name in ("utc", "offset_seconds"):
            reader.missing(f"time.{name}", "date did not tell")
    else:
        # The first reading came after `began`, the last one before `ended`; a date without fractions is up to a second late.
        slack = 0.0 if "." in fields["last"] else 1.0
        low, high = epoch - ended, first + slack - began
        offset, accuracy = round((low + high) / 2, 3), round(abs(high - low) / 2, 3)
        if abs(offset) > accuracy + 2:
            way = "ahead of" if offset > 0 else "behind"
            about = timedelta(seconds=round(abs(offset)))
            reader.warnings.append(f"its clock is {about} {way} the relay's")
    zone = fields.get("zone", "").split()
    shown = None
    if epoch is not None:
        shown = _iso(epoch)
    synchronised, source = _synchronised(reader)
    if synchronised is False:
        reader.warnings.append(f"its clock is not synchronised ({source})")
    return {
        "epoch": epoch, "utc": shown, "zone": " ".join(zone) or None, "synchronised": synchronised, "source": source,
        "offset_seconds": offset, "offset_accuracy": accuracy,
    }  # fmt: skip


def _synchronised(reader: _Reader) -> tuple[bool | None, str | None]:
    told = reader.ran.fields("sync").get("NTPSynchronized")
    if told in ("yes", "no"):
        return told == "yes", "timedatectl"
    # chronyc(1), -c: reference id, address, stratum, …, leap status
    tracking = reader.ran.text("chrony").strip().split(",")
    if len(tracking) >= 14:
        return tracking[-1] != "Not synchronised", "chronyc"
    status = reader.ran.text("adjtimex")
    # adjtimex(2): STA_UNSYNC is 0x40.
    if match := re.search(r"status:\s*(0x[0-9a-f]+|\d+)", status):
        return not int(match[1], 0) & 0x40, "adjtimex"
    reader.missing("time.synchronised", "none of timedatectl, chronyc and adjtimex tells")
    return None, None


def _reboot(reader: _Reader, container: bool) -> dict[str, Any]:
    found = reader.ran.fields("reboot")
    reasons = []
    if "file" in found:
        packages = one_line(found.get("packages", ""), 200)
        reasons.append(f"{found['file']} is there" + (f", because of {packages}" if packages else ""))
    if found.get("needs") == "1":
        reasons.append("needs-restarting says so")
    running = reader.facts["release"]
    installed = [one_line(name, 100) for name in reader.ran.lines("modules")]
    compared = bool(running and installed and not container)
    if compared:
        newer = newest(running, installed)
        if newer:
            reasons.append(f"kernel {newer} is installed, {running} is running")
        elif running not in installed:
            reasons.append(f"the modules of the running kernel {running} are gone")
    if reasons:
        reader.warnings.append(f"a reboot is pending: {'; '.join(reasons)}")
        return {"required": True, "reasons": reasons}
    if compared or found.get("needs") == "0" or found.get("kept"):
        return {"required": False, "reasons": []}
    reader.missing(
        "reboot.required",
        "a container has the kernel of its host" if container else "nothing on this host keeps track of it",
    )
    return {"required": None, "reasons": []}


def newest(running: str, installed: Sequence[str]) -> str | None:
    """An installed kernel that is newer than the running one; of those of the same kind, such as `-cloud-amd64`, alone."""

    def kind(name: str) -> list[str]:
        return re.findall(r"[a-z]+", name)

    def order(name: str) -> list[int]:
        return [int(number) for number in re.findall(r"[0-9]+", re.split(r"[A-Za-z]", name)[0])]

    newer = [name for name in installed if kind(name) == kind(running) and order(name) > order(running)]
    return max(newer, key=order, default=None)


def _failed(reader: _Reader) -> list[str] | None:
    lines = reader.ran.lines("units")
    if not lines or lines[-1] != "= told":
        reader.missing(
            "failed_units", "systemctl did not answer" if reader.facts["systemd"] else "no systemd on this host"
        )
        return None
    units = [one_line(line.split()[0], 120) for line in lines[:-1] if line.split()]
    if units:
        more = f" and {len(units) - 5} more" if len(units) > 5 else ""
        reader.warnings.append(f"{len(units)} failed unit{'s' * (len(units) > 1)}: {', '.join(units[:5])}{more}")
    return units[:UNITS]


def _users(reader: _Reader) -> int | None:
    lines = reader.ran.lines("users")
    if not lines:
        reader.missing("logged_in", "the host keeps no list of logins")
        return None
    found = {tuple(line.split()[1:3]) for line in lines if line.startswith("who ")}
    sessions = [line for line in lines if line.startswith("session ") and re.search(r"\b(tty|pts/)", line)]
    return len(found) + len(sessions)


def _addresses(reader: _Reader) -> list[dict[str, str]] | None:
    found: list[dict[str, str]] = []
    interface = ""
    for line in reader.ran.lines("addresses"):
        if match := re.match(r"\d+:\s+(\S+)\s+inet6? (\S+)", line):
            if " scope link" in line or " scope host" in line:
                continue
            found.append({"interface": match[1], "address": match[2].partition("/")[0]})
            continue
        if match := re.match(r"([\w.@-]+):? ", line):
            interface = match[1]
        if match := re.match(r"\s+inet6? (?:addr: ?)?([0-9a-fA-F.:]+)", line):
            address = match[1]
            if not address.startswith(("127.", "fe80:")) and address != "::1" and "Scope:Link" not in line:
                found.append({"interface": interface, "address": address})
    if not found:
        reader.missing("addresses", "neither ip nor ifconfig shows one")
        return None
    return found[:ADDRESSES]


def _updates(reader: _Reader) -> dict[str, Any] | None:
    text = reader.ran.text("updates")
    number = re.search(r"(\d+) (?:updates?|packages?)", text)
    if number is None:
        reader.missing("updates", "only the package manager knows, after asking its servers")
        return None
    security = re.search(r"(\d+) [^\n]*security", text)
    return {"pending": int(number[1]), "security": int(security[1]) if security else None}
