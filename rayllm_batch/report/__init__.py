"""What a run cost and why: the estimate before, the report after."""
