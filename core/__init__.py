"""What every other folder may use: settings, errors, logs, metrics. It imports nothing else of the project."""
