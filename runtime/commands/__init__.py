"""Sub-commands that ship on the device; ``camscribe.runtime.cli`` imports each when it is asked for."""
