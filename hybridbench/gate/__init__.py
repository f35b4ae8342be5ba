"""gate: whether a change made performance worse: exact figures compared, and pairs of measurements judged."""
