"""A model's files: access on the Hub, the download, and what a folder of them must have."""
