"""Time an artifact against other engines, in turns on the same CPUs."""

from lutc.benchmark.benchmark import BenchmarkReport, benchmark

__all__ = ["BenchmarkReport", "benchmark"]
