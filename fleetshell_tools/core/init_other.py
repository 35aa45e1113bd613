"""Services of hosts without systemd (OpenRC, runit, SysV scripts), told by shell text in the words of `systemctl show`."""

from __future__ import annotations

LOOKED_FOR = (
    "systemd (/run/systemd/system), OpenRC (/run/openrc), runit (sv and /etc/service, /var/service, /service or /etc/sv) "
    "and SysV scripts (/etc/init.d)"
)

OTHER = r"""
limited() { ${timeout:+timeout 5} "$@" </dev/null >/dev/null 2>&1; }
# A refusal of sudo would look like the exit status of what it was to run.
if [ "$sudo_state" != yes ]; then as_root() { "$@"; }; else as_root() { root "$@"; }; fi
manager_of() {
  m= where=
  if [ -d /run/openrc ] && [ -f "/etc/init.d/$1" ]; then m=openrc; return; fi
  for d in /etc/service /var/service /service /etc/runit/runsvdir/default /etc/sv; do
    if [ -d "$d/$1" ] && has sv; then m=runit where=$d/$1; return; fi
  done
  if [ -f "/etc/init.d/$1" ] && [ -x "/etc/init.d/$1" ]; then m=sysv; return; fi
  return 1
}
names() {
  for f in /etc/service/* /var/service/* /service/* /etc/runit/runsvdir/default/* /etc/sv/* /etc/init.d/*; do
    [ -e "$f" ] && manager_of "${f##*/}" && printf '%s\n' "${f##*/}"
  done | sort -u
}
managers() {
  found=
  if [ -d /run/openrc ]; then found=openrc; fi
  if has sv; then for d in /etc/service /var/service /service /etc/sv; do [ -d "$d" ] && found="$found runit" && break; done; fi
  if [ -d /etc/init.d ] && [ "$found" != openrc ]; then found="$found sysv"; fi
  set -- $found
  echo "$*"
}
started_at() {
  IFS= read -r s 2>/dev/null <"/proc/$1/stat" || return
  set -- ${s##*) }
  b=$(sed -n 's/^btime //p' /proc/stat)
  if [ -n "$b" ]; then echo "ActiveEnterTimestamp=@$((b + ${20} / 100))"; fi
}
tell() {
  active= sub= enabled= pid= about=
  case $m in
  openrc)
    about=$(sed -n 's/^description="\(.*\)"$/\1/p' "/etc/init.d/$1" | head -n 1)
    enabled=disabled
    for f in /etc/runlevels/*/"$1"; do if [ -e "$f" ]; then enabled=enabled; fi; done
    if [ -n "$2" ]; then limited rc-service "$1" status; code=$?
    else
      code=3
      for k in started:0 stopping:4 starting:8 inactive:16 failed:3; do if [ -e "/run/openrc/${k%:*}/$1" ]; then code=${k#*:}; fi; done
    fi
    case $code in
    0) active=active sub=started ;; 4) active=deactivating sub=stopping ;; 8) active=activating sub=starting ;;
    3) active=inactive sub=stopped; if [ -e "/run/openrc/failed/$1" ]; then active=failed sub=failed; fi ;;
    16) active=inactive sub=inactive ;; 32) active=failed sub=crashed ;;
    esac ;;
  runit)
    enabled=enabled
    case $where in /etc/sv/*) enabled=disabled ;; esac
    if [ -e "$where/down" ]; then enabled=disabled; fi
    sub=$(as_root cat "$where/supervise/stat" 2>/dev/null)
    pid=$(as_root cat "$where/supervise/pid" 2>/dev/null)
    case $sub in run*) active=active ;; down*) active=inactive ;; finish*) active=deactivating ;; esac
    if [ -z "$sub" ] && [ "$enabled" = disabled ]; then active=inactive sub=unsupervised; fi ;;
  sysv)
    about=$(sed -n 's/^# *Short-Description: *//p' "/etc/init.d/$1" | head -n 1)
    enabled=disabled
    for f in /etc/rc[2345].d/S[0-9][0-9]"$1" /etc/rc.d/rc[2345].d/S[0-9][0-9]"$1"; do if [ -e "$f" ]; then enabled=enabled; fi; done
    # LSB 3.1, 20.2: what `status` exits with
    if grep -q status "/etc/init.d/$1"; then
      as_root ${timeout:+timeout 5} "/etc/init.d/$1" status </dev/null >/dev/null 2>&1
      case $? in
      0) active=active sub=running ;; 1) active=failed sub=dead-with-pid-file ;; 2) active=failed sub=dead-with-lock ;;
      3) active=inactive sub=dead ;;
      esac
    fi ;;
  esac
  if [ -z "$pid" ] && [ "$active" = active ]; then
    for f in "/run/$1.pid" "/run/$1/$1.pid" "/var/run/$1.pid"; do
      IFS= read -r pid 2>/dev/null <"$f" && [ -d "/proc/$pid" ] && break
      pid=
    done
  fi
  printf '%s\n' "Id=$1" LoadState=loaded "ActiveState=$active" "SubState=$sub" "UnitFileState=$enabled" "MainPID=$pid" "Description=$about"
  if [ -n "$pid" ]; then started_at "$pid"; fi
  echo
}
"""
"""`manager_of NAME` sets `m` (and fails where there is no such service), `tell NAME [exactly]` then prints its properties.

`names` prints all services, `managers` what this host has; state comes from exit statuses, links and files alone.
"""

RESTART = r"""
# Behind sudo a `timeout` of ours could end nothing, and in front of the command no line of sudoers would fit.
apart() {
  if [ -n "$sudo" ]; then ${setsid:+setsid} sudo -n -- "$@"
  else ${timeout:+timeout "$wait"} ${setsid:+setsid} "$@"; fi
}
restart_other() {
  case $m in
  openrc) set -- rc-service "$1" restart ;;
  runit) set -- sv restart "$where" ;;
  *) if has service; then set -- service "$1" restart; else set -- "/etc/init.d/$1" restart; fi ;;
  esac
  p=$(command -v "$1")
  part command; (shift; echo "$p $*")
  # What a service inherits it may keep open for ever, so that is a file, and its session is none of ours.
  out=$(mktemp) || out=/dev/null
  apart "$@" </dev/null >"$out" 2>&1
  code=$?
  part asked; head -c 4000 "$out"
  if [ "$out" != /dev/null ]; then rm -f -- "$out"; fi
  part code; echo "$code"
}
"""
"""`restart_other NAME` restarts a service after `manager_of`, for at most `wait` seconds; needs OTHER."""
