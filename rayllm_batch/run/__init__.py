"""One call of run(), preview(), estimate() or check(): checked, planned, watched."""
