"""cluster: one sweep on many GPUs: the queue that a command opens, the workers that Slurm starts, and who watches them.

A command opens the queue of its results (``opening``). On one host it takes the cases itself. On a cluster it submits
workers (``slurm``), each of which is a process that takes cases until none is left (``member``), and follows their
records (``following``). ``status`` tells how far a queue is, and ``merging`` joins folders of results.
"""
