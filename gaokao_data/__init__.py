"""Bundled records and the tools that bring in more."""
