"""Lets basicsr's setup.py run on Python 3.13. In force where setup.sh puts this folder into PYTHONPATH.

That setup.py does, inside a function, `exec(source)` and then `return locals()["__version__"]`. Up to Python 3.12, exec()
writes into the very dict that locals() gives. Since 3.13 (PEP 667) it writes into a copy, and the return is a KeyError. Here,
exec() without a namespace writes into its caller's variables again. On 3.11 and 3.12 this file does nothing.
"""

import builtins
import sys
from typing import Any

if sys.version_info >= (3, 13):
    _exec = builtins.exec

    def exec_in_caller(source: Any, /, globals: Any = None, locals: Any = None, **options: Any) -> None:
        if globals is None:
            caller = sys._getframe(1)
            globals = caller.f_globals
            locals = caller.f_locals if locals is None else locals
        _exec(source, globals, locals, **options)

    builtins.exec = exec_in_caller
