"""What the README claims, measured. `python -m benchmarks [NAME ...]` prints one table for each."""
