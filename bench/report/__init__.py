"""Reporting: the stored samples as Markdown tables and as a plot."""
