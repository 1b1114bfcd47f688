"""The broker: a small protocol (`protocol`) with two implementations, `kafka` and `memory`."""
