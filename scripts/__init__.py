"""What developers, continuous integration and the Dockerfile run."""
