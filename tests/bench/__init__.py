"""The benchmark: FleetShell beside its peers in one run, as a table of ratios (`make bench`)."""
