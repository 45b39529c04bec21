"""NumPy kernels: arrays in, arrays out. One file per kind of mathematics, each checked against a brute-force twin.

Nothing here reads a disk, loads data, knows a record or a learner, or imports a framework.
"""
