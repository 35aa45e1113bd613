"""Ways to run a command on hosts, ours and others', each in a process of its own that does as it is told over a pipe."""
