"""Measuring: our engine and its baselines in turns, section by section."""
