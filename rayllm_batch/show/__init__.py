"""What a person sees: progress meanwhile, a preview before, the last words after."""
