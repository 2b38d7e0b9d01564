"""The answers on disk: whose they are, in which parts, read back as they came."""
