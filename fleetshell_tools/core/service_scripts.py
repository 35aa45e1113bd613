"""The programs of the service tools: what they run on a host, by systemd where it is there, else by what is."""

from __future__ import annotations

from fleetshell_tools.core import init_other
from fleetshell_tools.core.systemd import PROPERTIES

_SYSTEMD = (
    r"""
show() { TZ=UTC systemctl --no-pager show -p """
    + PROPERTIES
    + r""" -- "$@"; }
value() { printf '%s\n' "$t" | sed -n "s/^$1=//p"; }
files() {
  systemctl --no-pager --no-legend --full list-unit-files "$@" 2>/dev/null | while read -r name rest; do printf '%s\n' "$name"; done
}
journal() {
  if [ -z "$journal" ]; then return; fi
  part log
  if [ -n "$sudo" ] && root journalctl --no-pager -o json "$@"; then part readable; echo 1; return; fi
  journalctl --no-pager -o json "$@"
  part readable
  for f in /run/log/journal/*/system.journal /var/log/journal/*/system.journal; do if [ -r "$f" ]; then echo 1; fi; done
}
"""
)

STATUS = (
    _SYSTEMD
    + init_other.OTHER
    + r"""
unit=$1 instances=$2 log_path=$3 lines=$4
log_file() { if [ -n "$log_path" ]; then part file; root tail -c 16384 -- "$log_path" | tail -n "$lines"; fi; }
if [ -z "$systemd" ]; then
  part manager
  name=${unit%.service}
  if manager_of "$name"; then
    echo $m
    part unit; t=$(tell "$name" exactly); printf '%s\n' "$t"
    log_file
  else
    managers
    part known; names
  fi
elif [ -n "$instances" ]; then
  part manager; echo systemd
  part template; systemctl is-enabled -- "$unit" 2>/dev/null
  part known; files
  part instances; show "$instances"
  exit 0
else
  part manager; echo systemd
  part unit; t=$(show "$unit"); printf '%s\n' "$t"
  id=$(value Id) also=$(value Triggers)
  also=${also%% *}
  if [ "$(value LoadState)" = not-found ] && [ "$(value ActiveState)" = inactive ]; then part known; files; exit 0; fi
  if [ -n "$also" ]; then part triggers; show "$also"; fi
  set -- "--unit=$id"
  if [ -n "$also" ]; then set -- "$@" "--unit=$also"; fi
  found=$(journal -n "$lines" "$@")
  printf '%s\n' "$found"
  case $found in *__REALTIME_TIMESTAMP*) ;; *) log_file ;; esac
fi
pid=$(value MainPID)
part host; echo "now=$(date +%s)"; IFS=' ' read -r up rest </proc/uptime && echo "uptime=$up"
part process
if [ "${pid:-0}" != 0 ]; then sed -n 's/^VmRSS:[[:space:]]*/VmRSS=/p' "/proc/$pid/status" 2>/dev/null; fi
exit 0
"""
)
"""Data: unit, pattern of a template's instances or "", log file or "", how many log lines."""

RESTART = (
    _SYSTEMD
    + init_other.OTHER
    + init_other.RESTART
    + r"""
unit=$1 wait=$2 lines=$3
shift 3
nap() { sleep 0.2 2>/dev/null || sleep 1; }
if [ -z "$systemd" ]; then
  part manager
  name=${unit%.service}
  manager_of "$name" || { managers; part known; names; exit 0; }
  echo $m
  part before; tell "$name" exactly
  restart_other "$name"
  if [ "$code" = 0 ] || [ "$code" = 124 ]; then nap; nap; nap; nap; nap; fi
  part after; tell "$name" exactly
  exit 0
fi
part manager; echo systemd
part before; t=$(show "$unit"); printf '%s\n' "$t"
id=$(value Id)
if [ "$(value LoadState)" = not-found ] && [ "$(value ActiveState)" = inactive ]; then part known; files; exit 0; fi
for one in "$@"; do
  case " $(value Names) " in *" $one "*) part critical; exit 0 ;; esac
done
set -- "--since=@$(date +%s)"
if [ -n "$journal" ]; then
  cursor=$({ [ -n "$sudo" ] && root journalctl --no-pager -n 1 --show-cursor "--unit=$id" || journalctl --no-pager -n 1 --show-cursor "--unit=$id"; } 2>/dev/null | sed -n 's/^-- cursor: //p')
  if [ -n "$cursor" ]; then set -- "--after-cursor=$cursor"; fi
fi
p=$(command -v systemctl)
part command; echo "$p --no-block restart $id"
part asked; root systemctl --no-block restart "$id" </dev/null 2>&1; code=$?
part code; echo $code
if [ $code != 0 ]; then exit 0; fi
end=$(($(date +%s) + wait)) calm=0 last=0
# What starts well may still end a moment later, so a service has to stay up for two seconds.
case $id in *.service) enough=10 ;; *) enough=1 ;; esac
while [ "$(date +%s)" -lt "$end" ]; do
  t=$(systemctl --no-pager show -p Job -p ActiveState -p NRestarts -- "$id")
  again=$(value NRestarts)
  # It ended and was started again; three times is enough to know.
  if [ "${again:-0}" != "$last" ]; then calm=0 last=$again; fi
  if [ "${again:-0}" -ge 3 ]; then break; fi
  case $t in
  *Job=[1-9]*) calm=0 ;;
  *ActiveState=failed* | *ActiveState=inactive*) break ;;
  *ActiveState=active*) calm=$((calm + 1)) ;;
  *) calm=0 ;;
  esac
  if [ $calm -ge $enough ]; then break; fi
  nap
done
part after; show "$id"
# What was said last is on its way to the journal still.
root journalctl --sync >/dev/null 2>&1 || nap
journal -n "$lines" "$@" "--unit=$id"
exit 0
"""
)
"""Data: unit, seconds to wait for the outcome, how many log lines, units that must not be restarted by another name."""

LIST = (
    _SYSTEMD
    + init_other.OTHER
    + r"""
part manager
if [ -z "$systemd" ]; then
  managers
  part units
  names | while read -r name; do manager_of "$name" && tell "$name"; done
  exit 0
fi
echo systemd
part units
kind=$1
set -f
set -- "*.$kind" $(if [ -n "$2" ]; then files "--type=$kind" | sed '/@\./d'; fi)
TZ=UTC systemctl --no-pager show -p Id,Names,LoadState,ActiveState,SubState,Description,UnitFileState -- "$@"
exit 0
"""
)
"""Data: the type of units, and whether those that are not loaded are to be shown too."""
