"""RRDBNet on one image at its own scale: an engine on torch, for GPUs and any CPU, and one of our own for x86-64 CPUs."""
