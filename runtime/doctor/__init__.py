"""What ``camscribe doctor`` knows: what of this machine works, what does not, and the one command that mends it.

Each part reads facts from a ``Machine`` and judges them in a function that touches nothing else. What could crash or
hang when it is imported is imported in a child process.
"""
