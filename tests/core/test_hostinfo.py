"""What a host is: recorded answers of several systems, and this machine asked by every shell."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.local_scripts import SHELLS, recorded, run_local

from fleetshell_tools.core import hostinfo

DEBIAN_FACTS = {
    "kernel": "Linux", "release": "6.1.0-18-amd64", "machine": "x86_64", "host": "web-1", "systemd": "1",
    "os_id": "debian", "os_version": "12", "os_name": "Debian GNU/Linux 12 (bookworm)",
}  # fmt: skip
DEBIAN = {
    "clock": "first=1700000000.25\nzone=+0100 CET\nlast=1700000000.75\n",
    "proc": "uptime=3542400.55 7000000.11\nloadavg=9.50 8.75 4.25 3/312 4711\n",
    "meminfo": "MemTotal: 4000000 kB\nMemAvailable: 1000000 kB\nSwapTotal: 1000 kB\nSwapFree: 100 kB\n",
    "cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 7443P 24-Core Processor\nprocessor\t: 1\nmodel name\t: AMD EPYC\n",
    "virt": "vm=kvm\ncontainer=none\nsys_vendor=QEMU\nflag=1\n",
    "sync": "Timezone=Europe/Berlin\nLocalRTC=no\nCanNTP=yes\nNTP=yes\nNTPSynchronized=yes\n",
    "reboot": "file=/run/reboot-required\npackages=linux-image-6.1.0-21-amd64 linux-base \nkept=1\n",
    "modules": "6.1.0-18-amd64\n6.1.0-21-amd64\n6.1.0-30-cloud-amd64\n",
    "units": "nginx.service loaded failed failed A web server\nbackup@db.timer loaded failed failed Nightly\n= told\n",
    "users": "who root     pts/0        2023-11-14 22:00 (192.0.2.7)\nwho root     pts/1        2023-11-14 22:01 (192.0.2.7)\n",
    "addresses": (
        "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever\n"
        "2: eth0    inet 192.0.2.10/24 brd 192.0.2.255 scope global eth0\\       valid_lft forever\n"
        "2: eth0    inet6 2001:db8::10/64 scope global \\       valid_lft forever\n"
        "2: eth0    inet6 fe80::1/64 scope link \\       valid_lft forever\n"
    ),
    "updates": "\n12 updates can be applied immediately.\n3 of these updates are standard security updates.\n",
}
ALPINE_FACTS = {
    "kernel": "Linux", "release": "6.6.7-0-lts", "machine": "aarch64", "host": "edge", "os_id": "alpine",
    "os_version": "3.19.0", "os_name": "Alpine Linux v3.19",
}  # fmt: skip
ALPINE = {
    "clock": "first=1700000000\nzone=+0000 UTC\nlast=1700000000\n",
    "proc": "uptime=60.10 100.00\nloadavg=0.00 0.01 0.02 1/99 88\n",
    "meminfo": "MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 700 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
    "cpuinfo": "processor\t: 0\nprocessor\t: 1\n",
    "adjtimex": "    mode:         0\n-o  offset:       0 us\n    status:       0x2001 (PLL)\n",
    "modules": "6.6.9-0-lts\n",
    "addresses": "2: eth0    inet 198.51.100.4/24 scope global eth0\\ valid_lft forever\n",
}
RHEL_FACTS = {
    "kernel": "Linux", "release": "5.14.0-362.8.1.el9_3.x86_64", "machine": "x86_64", "host": "db", "systemd": "1",
    "os_id": "rhel", "os_version": "9.3", "os_name": "Red Hat Enterprise Linux 9.3 (Plow)",
}  # fmt: skip
RHEL = {
    **DEBIAN,
    "virt": "vm=vmware\ncontainer=none\n",
    "sync": "",
    "chrony": "C0A80001,192.168.0.1,3,1700000000.1,-0.000012,0.00001,0.00002,-1.5,0.0,0.01,0.02,0.001,64.2,Not synchronised\n",
    "reboot": "needs=0\n",
    "modules": "5.14.0-362.8.1.el9_3.x86_64\n",
    "units": "= told\n",
    "updates": "",
}
MACOS_FACTS = {"kernel": "Darwin", "release": "23.1.0", "machine": "arm64", "host": "mac.local"}
MACOS = {
    "clock": "first=1700000000\nzone=+0000 UTC\nlast=1700000001\n",
    "release": "ProductName:\t\tmacOS\nProductVersion:\t\t14.1.1\nBuildVersion:\t\t23B81\n",
    "sysctl": (
        "kern.boottime: { sec = 1699990000, usec = 5 } Tue Nov 14 19:26:40 2023\nhw.ncpu: 8\nhw.memsize: 17179869184\n"
        "hw.model: Mac14,2\nmachdep.cpu.brand_string: Apple M2\nvm.loadavg: { 1.50 2.00 2.50 }\n"
    ),
    "users": "who ann console Nov 14 19:30\nasked\n",
    "addresses": "lo0: flags=8049<UP> mtu 16384\n\tinet 127.0.0.1 netmask 0xff000000\nen0: flags=8863<UP> mtu 1500\n\tinet6 fe80::1%en0 prefixlen 64\n\tinet 192.0.2.44 netmask 0xffffff00\n",
}
OPENBSD_FACTS = {"kernel": "OpenBSD", "release": "7.4", "machine": "amd64", "host": "fw"}
OPENBSD = {
    "clock": "first=1700000000\nzone=+0000 UTC\nlast=1700000000\n",
    "sysctl": "kern.boottime=Tue Nov 14 19:26:40 2023\nhw.ncpu=4\nhw.physmem=8589934592\nhw.model=Intel(R) Atom\nvm.loadavg=0.10 0.20 0.30\n",
}


def host(
    parts: dict[str, str], facts: dict[str, str], began: float = 1_700_000_000.0, took: float = 1.0
) -> hostinfo.Host:
    return hostinfo.parse(recorded(parts, facts), began, began + took)


def test_a_debian_in_trouble() -> None:
    found = host(DEBIAN, DEBIAN_FACTS)
    assert found.unknown == {}
    assert found.values == {
        "hostname": "web-1",
        "os": {"name": "Debian GNU/Linux 12 (bookworm)", "version": "12", "id": "debian"},
        "kernel": "Linux 6.1.0-18-amd64",
        "architecture": "x86_64",
        "virtualisation": {"machine": "kvm", "container": "none"},
        "cpu": {"model": "AMD EPYC 7443P 24-Core Processor", "count": 2, "load": [9.5, 8.75, 4.25]},
        "memory": {
            "total_bytes": 4_096_000_000, "available_bytes": 1_024_000_000, "used_percent": 75.0,
            "swap_total_bytes": 1_024_000, "swap_free_bytes": 102_400,
        },
        "uptime_seconds": 3542400,
        "boot_time": "2023-10-04T22:13:20Z",
        "time": {
            "utc": "2023-11-14T22:13:20Z", "zone": "+0100 CET", "synchronised": True, "source": "timedatectl",
            "offset_seconds": 0.0, "offset_accuracy": 0.25,
        },
        "reboot": {
            "required": True,
            "reasons": [
                "/run/reboot-required is there, because of linux-image-6.1.0-21-amd64 linux-base",
                "kernel 6.1.0-21-amd64 is installed, 6.1.0-18-amd64 is running",
            ],
        },
        "failed_units": ["nginx.service", "backup@db.timer"],
        "logged_in": 2,
        "addresses": [{"interface": "eth0", "address": "192.0.2.10"}, {"interface": "eth0", "address": "2001:db8::10"}],
        "updates": {"pending": 12, "security": 3},
    }  # fmt: skip
    said = "\n".join(found.warnings)
    for words in (
        "load of 5 minutes",
        "swap is used",
        "reboot is pending",
        "2 failed units: nginx.service, backup@db.timer",
    ):
        assert words in said


def test_an_alpine_says_what_it_does_not_know() -> None:
    found = host(ALPINE, ALPINE_FACTS, took=0.5)
    values = found.values
    assert values["cpu"] == {"model": None, "count": 2, "load": [0.0, 0.01, 0.02]}
    assert (values["failed_units"], values["logged_in"], values["updates"]) == (None, None, None)
    assert values["time"]["synchronised"] is True and values["time"]["source"] == "adjtimex"
    assert values["reboot"] == {
        "required": True,
        "reasons": ["kernel 6.6.9-0-lts is installed, 6.6.7-0-lts is running"],
    }
    assert values["memory"]["swap_total_bytes"] == 0
    assert set(found.unknown) == {
        "cpu.model",
        "failed_units",
        "logged_in",
        "updates",
        "virtualisation.machine",
        "virtualisation.container",
    }


def test_a_red_hat_asks_its_own_tools() -> None:
    found = host(RHEL, RHEL_FACTS)
    assert found.values["time"]["source"] == "chronyc" and found.values["time"]["synchronised"] is False
    assert found.values["reboot"] == {"required": False, "reasons": []}
    assert found.values["failed_units"] == [] and found.values["virtualisation"]["machine"] == "vmware"
    assert "its clock is not synchronised (chronyc)" in found.warnings


def test_a_mac_has_no_proc() -> None:
    found = host(MACOS, MACOS_FACTS, took=2.0)
    values = found.values
    assert values["os"] == {"name": "macOS 14.1.1", "version": "14.1.1", "id": None}
    assert values["cpu"] == {"model": "Apple M2", "count": 8, "load": [1.5, 2.0, 2.5]}
    assert values["memory"]["total_bytes"] == 17179869184 and values["memory"]["available_bytes"] is None
    assert (values["uptime_seconds"], values["boot_time"]) == (10001, "2023-11-14T19:26:40Z")
    assert values["addresses"] == [{"interface": "en0", "address": "192.0.2.44"}] and values["logged_in"] == 1
    assert (
        found.unknown["memory.available_bytes"] == "no /proc on this system"
        and "virtualisation.machine" in found.unknown
    )


def test_an_openbsd_tells_what_sysctl_tells() -> None:
    found = host(OPENBSD, OPENBSD_FACTS)
    assert found.values["cpu"]["count"] == 4 and found.values["memory"]["total_bytes"] == 8589934592
    assert found.values["os"]["version"] == "7.4" and found.values["uptime_seconds"] is None
    assert "uptime_seconds" in found.unknown


def nulls(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in nulls(item, f"{name}.{key}".strip("."))]
    return [name] if value is None else []


NO_REASON = {"time.source", "time.zone", "time.offset_accuracy", "updates.security"}
"""Null where there is none."""


@pytest.mark.parametrize(
    ("parts", "facts"),
    [
        ({}, {}),
        (DEBIAN, DEBIAN_FACTS),
        (ALPINE, ALPINE_FACTS),
        (RHEL, RHEL_FACTS),
        (MACOS, MACOS_FACTS),
        (OPENBSD, OPENBSD_FACTS),
    ],
)
def test_every_null_has_its_reason(parts: dict[str, str], facts: dict[str, str]) -> None:
    found = host(parts, facts)
    unexplained = [name for name in nulls(found.values) if name not in NO_REASON and name not in found.unknown]
    assert unexplained == []


@given(st.text(max_size=100), st.sampled_from([DEBIAN_FACTS, MACOS_FACTS, {}]))
def test_no_output_breaks_the_parser(text: str, facts: dict[str, str]) -> None:
    host(dict.fromkeys((*DEBIAN, "chrony", "adjtimex", "sysctl", "limits", "release"), text), facts)


@pytest.mark.parametrize(
    ("began", "took", "offset", "accuracy", "warned"),
    [
        (1_700_000_000.0, 1.0, 0.0, 0.25, ""),
        (1_700_000_060.0, 1.0, -60.0, 0.25, "its clock is 0:01:00 behind the relay's"),
        (1_699_996_400.0, 1.0, 3600.0, 0.25, "its clock is 1:00:00 ahead of the relay's"),
        (1_699_999_990.0, 20.0, 0.5, 9.75, ""),
    ],
)
def test_the_clock_is_compared_within_the_round_trip(
    began: float, took: float, offset: float, accuracy: float, warned: str
) -> None:
    found = host(DEBIAN, DEBIAN_FACTS, began, took)
    assert found.values["time"]["offset_seconds"] == pytest.approx(offset)
    assert found.values["time"]["offset_accuracy"] == pytest.approx(accuracy)
    assert [warning for warning in found.warnings if "the relay's" in warning] == ([warned] if warned else [])


@pytest.mark.parametrize(
    ("running", "installed", "newer"),
    [
        ("6.1.0-18-amd64", ["6.1.0-9-amd64", "6.1.0-18-amd64"], None),
        ("6.1.0-9-amd64", ["6.1.0-9-amd64", "6.1.0-18-amd64", "6.1.0-17-amd64"], "6.1.0-18-amd64"),
        ("6.1.0-9-amd64", ["6.1.0-18-cloud-amd64"], None),
        ("5.15.0-100-generic", ["5.15.0-101-generic", "5.15.0-101-lowlatency"], "5.15.0-101-generic"),
        ("5.14.0-362.el9.x86_64", ["5.14.0-362.8.1.el9_3.x86_64"], "5.14.0-362.8.1.el9_3.x86_64"),
        ("4.18.0-513.el8.x86_64", ["4.18.0-80.el8.x86_64"], None),
    ],
)
def test_a_newer_kernel_of_the_same_kind(running: str, installed: list[str], newer: str | None) -> None:
    assert hostinfo.newest(running, installed) == newer


@pytest.mark.parametrize(
    ("virt", "machine", "container"),
    [
        ("vm=none\ncontainer=none\n", "none", "none"),
        ("vm=kvm\ncontainer=lxc\n", "kvm", "lxc"),
        ("sys_vendor=Dell Inc.\nproduct_name=PowerEdge R740\n", "none", None),
        ("sys_vendor=Amazon EC2\nproduct_name=t3.micro\nflag=1\n", "amazon", None),
        ("flag=1\nhint=docker\n", "unknown hypervisor", "docker"),
        ("hypervisor=xen\n", "xen", None),
    ],
)
def test_virtual_machines_and_containers(virt: str, machine: str | None, container: str | None) -> None:
    found = host({**DEBIAN, "virt": virt}, DEBIAN_FACTS).values["virtualisation"]
    assert found == {"machine": machine, "container": container}


def test_in_a_container_kernels_say_nothing_of_a_reboot() -> None:
    found = host({**DEBIAN, "virt": "vm=none\ncontainer=lxc\n", "reboot": ""}, DEBIAN_FACTS)
    assert found.values["reboot"]["required"] is None and "kernel of its host" in found.unknown["reboot.required"]


def test_limits_of_the_control_group_are_shown() -> None:
    found = host({**DEBIAN, "limits": "cpu.max=150000 100000\nmemory.max=536870912\n"}, DEBIAN_FACTS)
    assert found.values["cpu"]["limit"] == 1.5 and found.values["memory"]["limit_bytes"] == 536870912
    found = host({**DEBIAN, "limits": "cpu.max=max 100000\nmemory.max=max\n"}, DEBIAN_FACTS)
    assert "limit" not in found.values["cpu"] and "limit_bytes" not in found.values["memory"]


@pytest.mark.parametrize("shell", SHELLS)
def test_this_machine_tells_all_in_one_run(shell: str) -> None:
    began = time.time()
    ran = run_local(shell, hostinfo.SCRIPT)
    found = hostinfo.parse(ran, began, time.time())
    assert ran.stderr == "" and ran.exit_code == 0
    uname = os.uname()
    assert (found.values["kernel"], found.values["architecture"]) == (f"Linux {uname.release}", uname.machine)
    assert found.values["memory"]["total_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.values["cpu"]["load"] and found.values["uptime_seconds"] > 0 and found.values["boot_time"]
    assert abs(found.values["time"]["offset_seconds"]) <= found.values["time"]["offset_accuracy"] + 0.01
