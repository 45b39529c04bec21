"""One script per claim: ``python -m benchmarks.NAME [--peers]``. Nothing in here is part of the package."""
