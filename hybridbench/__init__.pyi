from hybridbench import charts as charts
from hybridbench.frames import cost as cost
from hybridbench.frames import fit as fit
from hybridbench.frames import load as load
from hybridbench.frames import price as price

__all__ = ["__version__", "charts", "cost", "fit", "load", "price"]

__version__: str
