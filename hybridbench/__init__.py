"""hybridbench: benchmark, profile and predict language models that mix attention with state-space layers.

The names in ``__all__`` are the Python interface, described in docs/python.md. Each is imported when it is first used:
``import hybridbench`` alone loads neither torch nor pandas. Type checkers read ``__init__.pyi``.
"""

import importlib as _importlib

__version__ = "0.1.0"

__all__ = ["__version__", "charts", "cost", "fit", "load", "price"]


def __getattr__(name: str) -> object:
    if name == "charts":
        return _importlib.import_module("hybridbench.charts")
    if name in __all__:
        return getattr(_importlib.import_module("hybridbench.frames"), name)
    raise AttributeError(f"module 'hybridbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
