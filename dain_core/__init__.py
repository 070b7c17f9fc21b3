__version__ = "0.2.0.dev0"  # what service/__init__.py says, too: a test compares them
