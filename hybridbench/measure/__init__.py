"""measure: how long a step takes and what the machine was doing meanwhile.

``clock`` times steps, ``sampling`` decides how many, ``caveats`` says when to doubt them, ``memory`` sums bytes,
``nvml`` watches the GPU, ``environment`` takes the fingerprint of machine and software.
"""
