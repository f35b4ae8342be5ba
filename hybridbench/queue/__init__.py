"""queue: which job a worker gets next: from memory, or from a folder that workers on many machines share.

A worker takes a job (``jobs.Claim``), and settles the claim when the job has a record or comes back. A shared queue
(``shared``) lies in the folder of the results. A job is taken by an atomic rename, and belongs to its worker as long as
that one renews its lease (``lease``).
"""
