"""Jobs: requests that run while nobody waits on the line, and the record of each, by its id."""

from serving.jobs.jobs import Jobs

__all__ = ["Jobs"]
