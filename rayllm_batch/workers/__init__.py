"""What runs inside Ray's tasks and actors: prompts on CPUs, a replica and its engine."""
