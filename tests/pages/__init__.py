"""Pages of the guide that are run, each in a process of its own."""
