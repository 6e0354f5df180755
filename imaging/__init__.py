"""Image files and pixels: bytes to `Picture` and back. It knows nothing of HTTP, of torch or of models."""
