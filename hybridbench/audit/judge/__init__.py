"""judge: what was seen compared with closed forms, every difference named, and both as tables; needs no torch."""
