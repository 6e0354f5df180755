"""What runs on torch: the device, super-resolution, faces. Arrays in and out; nothing here knows requests.

Only the worker that owns the device may call into a loaded model.
"""

from models.process import prepare_process

prepare_process()  # before any module of this folder imports torch or basicsr
