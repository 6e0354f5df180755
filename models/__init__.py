"""Torch lives here alone: super-resolution and faces. Only the worker that owns the device may call into a loaded model."""
