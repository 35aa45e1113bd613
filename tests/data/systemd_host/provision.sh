# Run by sh -eu in the new root, after the files beside it were copied there.
for user in admin plain; do
    useradd --create-home --shell /bin/bash --password '*' "$user"
done
echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin
chmod 440 /etc/sudoers.d/admin

# What a test's traffic shall not find, and nothing that asks the network on its own.
rm -f /etc/nginx/sites-enabled/default
systemctl mask apt-daily.timer apt-daily-upgrade.timer console-getty.service
# Where sshd is started by a socket, the socket has a port of its own.
systemctl disable ssh.socket 2>/dev/null || true
# From OpenSSH 9.8 on some failed logins lock an address out, and all tests come from one.
calm='PerSourcePenalties no'
if ! /usr/sbin/sshd -t -f /dev/null -o "$calm" 2>&1 | grep -q 'Bad configuration option'; then
    echo "$calm" >>/etc/ssh/sshd_config.d/fleetshell.conf
fi
systemctl enable ssh.service nginx.service cron.service
systemctl enable demo-ok.service demo-fail.service demo-tick.timer demo-echo.socket
systemd-machine-id-setup

rm -rf /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /provision.sh
