"""observe: programs that print the exact figures that torch and Triton decide; each is a process of its own."""
