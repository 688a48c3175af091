"""Sub-commands of the training side; ``camscribe.runtime.cli`` imports each when it is asked for."""
