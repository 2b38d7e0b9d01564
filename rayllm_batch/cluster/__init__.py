"""Ray: connecting to it, what it has room for, and which versions its nodes have."""
