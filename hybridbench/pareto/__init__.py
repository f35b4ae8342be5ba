"""pareto: the quality of stacks joined with what they were measured to cost, and which of them no other beats."""
