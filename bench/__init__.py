"""Measurements, load tests and the pictures of the documents, each by a command; the service imports none of it."""
