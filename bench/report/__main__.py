"""`python -m bench.report`: write the stored results into docs/benchmarks.md, and draw them; nothing is measured."""

from __future__ import annotations

from bench.report.summary import write_summary

write_summary()
