"""Everything SSH: the guard, host keys, connections and running commands on servers."""
