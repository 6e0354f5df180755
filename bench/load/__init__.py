"""Load tests: a server of their own, and everything that clients may do to it."""
