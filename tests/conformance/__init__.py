"""The official conformance suites and the Inspector, run against the relay's own transport and protocol."""
