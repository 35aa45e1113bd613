"""Judges of class container: containers, clusters and cloud resources lost as a whole, and containers that own the host."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fleetshell_tools.fleet.guard.judges.words import Row, by_words, table
from fleetshell_tools.fleet.guard.options import parse
from fleetshell_tools.fleet.guard.paths import is_system_folder, resolve
from fleetshell_tools.fleet.guard.rules import Command, Finding, judges
from fleetshell_tools.fleet.guard.symbols import STAR, plain

_ALL = ("container", "destroy-all", "destroys containers, volumes or images as a whole")
_CLUSTER = ("container", "destroy-cluster", "destroys what runs in a cluster, or takes a node from it")
_CLOUD = ("container", "destroy-cloud", "destroys cloud resources")
_MACHINES = ("container", "destroy-machine", "destroys a virtual machine or system container")

_DOCKER = (
    "system prune --volumes",
    "volume prune",
    f"rm|rmi|stop|kill|restart|pause {STAR}",
    "swarm leave --force|-f",
    "stack rm",
    "compose down -v|--volumes|--rmi",
    "compose rm -v|-fsv|-fv|-sv",
    "node rm --force|-f",
    "machine rm|reset",
    "rm|rmi|stop|kill --all|-a|-af|-fa|-fva",
    "system reset",
)
_KINDS = (
    "project|projects|pvc,*|ns|namespace|namespaces|ns/*|namespace/*|namespaces/*|pv|pvc|pv/*|pvc/*|persistentvolume|persistentvolumes|"
    "persistentvolumeclaim|persistentvolumeclaims|node|nodes|node/*|nodes/*|crd|crd/*|customresourcedefinition|pv,pvc|"
    "pvc,pv|statefulset|statefulsets|sts|sts/*|statefulset/*|storageclass|clusterrole|clusterrolebinding"
)
_VERBS = "delete|destroy|rm|remove|terminate|purge"

_ROWS: tuple[Row, ...] = (
    ("docker podman nerdctl", _ALL, _DOCKER),
    ("docker-compose podman-compose", _ALL, ("down -v|--volumes|--rmi", "rm -v|-fsv|-fv|-sv")),
    ("buildah", _ALL, ("rm|rmi --all|-a",)),
    ("crictl", _ALL, ("rm|rmi|rmp -a|--all|-fa|-af|--prune",)),
    ("ctr", _ALL, (f"rm|remove|delete|kill {STAR}",)),
    (
        "kubectl oc k3s kubecolor",
        _CLUSTER,
        (
            "delete --all|--all-namespaces|-A",
            f"delete {_KINDS}",
            f"delete {STAR}",
            "delete --force --grace-period=0",
            "drain --force|--delete-emptydir-data|--delete-local-data",
            "scale --replicas=0 --all|-A",
            "replace --force",
        ),
    ),
    ("helm", _CLUSTER, ("uninstall|delete|del|un",)),
    ("kubeadm", _CLUSTER, ("reset",)),
    ("minikube kind k3d", _CLUSTER, ("delete",)),
    ("k3s-uninstall.sh k3s-agent-uninstall.sh rke2-uninstall.sh k3s-killall.sh", _CLUSTER, ("",)),
    ("talosctl", _CLUSTER, ("reset", "reboot", "shutdown")),
    ("argocd flux", _CLUSTER, ("app delete", "uninstall", "delete")),
    ("eksctl kops", _CLUSTER, ("delete cluster|nodegroup",)),
    ("nomad", _CLUSTER, ("job stop -purge", "system gc", "node drain", "stop -purge")),
    ("consul", _CLUSTER, ("kv delete -recurse", "leave", "force-leave")),
    (
        "vercel netlify wrangler railway render surge",
        _CLOUD,
        ("rm|remove|delete|sites:delete|d1:delete|delete-project",),
    ),
    ("b2", _CLOUD, ("delete-bucket|delete-file-version|bucket delete",)),
    ("esxcli", _MACHINES, ("kill|shutdown|destroy|remove|erase",)),
    ("vim-cmd", _MACHINES, ("vmsvc/destroy|vmsvc/unregister|vmsvc/power.off|hostsvc/*",)),
    ("microk8s", _CLUSTER, ("reset|uninstall",)),
    ("rke2-killall.sh k3s-agent-killall.sh", _CLUSTER, ("",)),
    ("cdktf", _CLOUD, ("destroy",)),
    (
        "terraform tofu terragrunt",
        _CLOUD,
        ("workspace delete -force|--force", "destroy", "apply -destroy", "run-all destroy", "state rm", "destroy-all"),
    ),
    ("pulumi cdk sst sam copilot amplify serverless sls", _CLOUD, ("destroy|remove|delete|down",)),
    (
        "aws",
        _CLOUD,
        (
            "s3 rm --recursive",
            "s3 rb",
            "s3 sync --delete /tmp/empty|empty|./empty",
            "terminate-*|close-account|--desired-capacity=0|purge-*|delete-log-group|delete-cache-*|delete-db-*|delete-stack|delete-cluster|delete-table|delete-bucket|delete-volume|delete-snapshot|"
            "delete-vpc|delete-hosted-zone|delete-function|delete-file-system|delete-user|delete-role|delete-objects|"
            "delete-key-pair|delete-secret|delete-backup-*|delete-vault|delete-cache-*|delete-replication-*|delete-domain|"
            "delete-repository|delete-load-balancer|delete-security-group|delete-subnet|delete-stack-set|delete-trail|"
            "schedule-key-deletion|disable-key|deregister-*|delete-auto-scaling-group|delete-nodegroup|stop-logging",
            "update-auto-scaling-group 0",
            "stop-instances|reboot-instances|stop-db-*",
        ),
    ),
    (
        "gcloud",
        _CLOUD,
        (
            "delete projects|instances|clusters|databases|disks|buckets|snapshots|sql|networks|services|secrets|keys|rm",
            "storage rm|buckets",
            "delete --quiet|-q",
        ),
    ),
    ("gsutil", _CLOUD, ("rm -r|-R|-a", "rb", f"rm {STAR}{STAR}")),
    ("bq", _CLOUD, ("rm -r|-f|-d|-rf",)),
    (
        "az",
        _CLOUD,
        (
            "delete group|vm|sql|aks|storage|disk|keyvault|cosmosdb|network|webapp|account|container|server|db",
            "purge",
            "deallocate --ids",
        ),
    ),
    (
        "doctl hcloud linode-cli vultr-cli scw oci ibmcloud civo exo yc openstack nova cinder flyctl fly heroku",
        _CLOUD,
        ("delete|destroy|apps:destroy|pg:reset|rm|terminate|delete-batch|remove|rebuild|poweroff|shutdown",),
    ),
    ("mc s3cmd", _CLOUD, ("rm|rb|del --recursive|--force|-r|-f|-rf", "rb", "--recursive del")),
    ("vault", _CLOUD, ("secrets disable", "operator seal", "kv metadata delete", "delete -recursive")),
    ("gh glab", _CLOUD, ("repo|release delete --yes|-y|--confirm", "repo delete")),
    ("virsh", _MACHINES, ("undefine|vol-delete|pool-delete|pool-destroy|net-destroy|vol-wipe|destroy",)),
    ("lxc incus", _MACHINES, ("delete|rm --force|-f", "storage delete", "stop --all")),
    ("lxc-destroy", _MACHINES, ("",)),
    ("qm pct", _MACHINES, ("destroy",)),
    ("pvecm", _MACHINES, ("delnode",)),
    ("vagrant", _MACHINES, ("destroy",)),
    ("multipass", _MACHINES, ("delete --all|--purge|-p", "purge")),
    ("VBoxManage vboxmanage", _MACHINES, ("unregistervm --delete", "closemedium --delete")),
    (
        "xe",
        _MACHINES,
        ("vm-destroy|vm-uninstall|sr-destroy|vdi-destroy|sr-forget|host-reboot|host-shutdown|host-destroy",),
    ),
    ("govc", _MACHINES, ("vm.destroy|datastore.rm",)),
    ("machinectl", _MACHINES, ("remove",)),
)
_RULES = table(_ROWS)


@judges(*_RULES)
def destroys(command: Command) -> Finding | None:
    words = command.arguments
    if command.name in ("virsh",) and {"list", "dominfo", "dumpxml"} & set(words):
        return None
    return by_words(command, _RULES)


_OPENINGS = frozenset(
    "--privileged --pid=host --cap-add=ALL --cap-add=SYS_ADMIN --cap-add=all --security-opt=seccomp=unconfined "
    "--security-opt=apparmor=unconfined --userns=host --ipc=host --uts=host --device=/dev/mem".split()
)
_WITH_VALUE = frozenset(["--pid", "--cap-add", "--security-opt", "--userns", "--device", "-v", "--volume", "--mount"])


@judges("docker", "podman", "nerdctl")
def opens_host(command: Command) -> Finding | None:
    """A container that has the host: privileged, or with a folder of the host that it may write to."""
    words = list(command.arguments)
    if not {"run", "create"} & set(words[:3]):
        return None
    options = _joined(words)
    mounts = [word.partition("=")[2] for word in options if word.partition("=")[0] in ("-v", "--volume", "--mount")]
    critical = [source for mount in mounts if (source := _writable_source(mount)) and _is_hosts(source)]
    alone = options & (_OPENINGS - {"--pid=host"})
    device = any(
        option.startswith("--device=/dev/") and option[14:16] in ("sd", "nv", "vd", "dm", "xv") for option in options
    )
    if alone or critical or device or ("--pid=host" in options and not mounts):
        return Finding("container", "open-host", "gives a container power over the host itself", command.argv)
    return None


_APPLICATIONS = re.compile(r"/(?:srv|opt|mnt|media|run|proc|sys|tmp|var/.*|usr/.*|(?:usr/)?lib/modules)")


def _is_hosts(folder: str) -> bool:
    return is_system_folder(folder, "/") and not _APPLICATIONS.fullmatch(resolve(folder, "/"))


def _joined(words: Sequence[str]) -> set[str]:
    """Options as one word each: `-v X` is `-v=X`."""
    found = set()
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word in _WITH_VALUE:
            found.add(f"{word}={following}")
        elif word.startswith("-v") and not word.startswith("--") and len(word) > 2:
            found.add("-v=" + word[2:].removeprefix("="))
        elif word == "--privileged=true":
            found.add("--privileged")
        elif word.startswith("-"):
            found.add(word)
    return found


def _writable_source(mount: str) -> str:
    """The folder of the host that a mount gives; empty for a named volume, or one that can be read only."""
    if "src=" in mount or "source=" in mount:
        parts = dict(part.partition("=")[::2] for part in mount.split(","))
        if {"readonly", "ro"} & set(parts):
            return ""
        return parts.get("src") or parts.get("source") or ""
    source, _, rest = mount.partition(":")
    how = set(rest.rpartition(":")[2].split(",")) if ":" in rest else set()
    return "" if "ro" in how or not source.startswith("/") else source


_RECORDS = re.compile(r"(?:https?://)?[^/]*:(?:9200|5984|8529|6333|8983)(?:/|\Z)")


@judges("curl", "http", "xh", "wget")
def deletes_index(command: Command) -> Finding | None:
    """`curl -X DELETE …/_all`: every index of Elasticsearch, or all that another service keeps."""
    options = parse(
        command.arguments, short="XdHoumAbFTwe", long=("request", "data", "header", "output", "user", "method")
    )
    asked = (options.value("X", "request", "method") or "").upper() == "DELETE" or "DELETE" in options.operands
    addresses = [operand for operand in options.operands if "/" in operand or ":" in operand]
    for address in addresses:
        path = (
            address.partition("://")[2].partition("?")[0].partition("/")[2]
            if "://" in address
            else address.partition("/")[2]
        )
        index = _RECORDS.match(address) and "/" not in path.strip("/") and not re.search(r"\d{4}", path)
        if asked and (
            index
            or STAR in path
            or "*" in path
            or path.strip("/") in ("_all", "*", "", STAR)
            or path.endswith(("/_all", "/*"))
        ):
            return Finding("database", "delete-all", "deletes every index or record of a service", command.argv)
        if "_delete_by_query" in path and (
            "match_all" in " ".join(command.arguments) or plain(address).endswith("q=*")
        ):
            return Finding("database", "delete-all", "deletes every index or record of a service", command.argv)
    return None


_PASSING = re.compile(r"cache|te?mp|old|test|dev|ci|build|scratch|sandbox|staging|node_modules", re.IGNORECASE)
_KEPT = re.compile(
    r"data|db|sql|pg|postgres|mongo|redis|elastic|backup|prod|store|storage|mail|vault|minio|influx", re.IGNORECASE
)


@judges("docker", "podman", "nerdctl")
def removes_data_volume(command: Command) -> Finding | None:
    """One volume, where its name says that data is kept in it."""
    operands = parse(command.arguments).operands
    if operands[:2] not in (["volume", "rm"], ["volume", "remove"]):
        return None
    kept = [name for name in operands[2:] if _KEPT.search(name) and not _PASSING.search(name)]
    return Finding("container", "delete-volume", "deletes a volume with data", command.argv) if kept else None


@judges("gsutil", "aws", "s3cmd", "mc", "rclone")
def removes_pattern(command: Command) -> Finding | None:
    """`gsutil rm gs://bucket/**`"""
    removing = {"rm", "del", "delete"} & set(command.arguments)
    everything = any("://" in word and plain(word).endswith(("/*", "/**")) for word in command.arguments)
    return Finding(*_CLOUD, command.argv) if removing and everything else None
