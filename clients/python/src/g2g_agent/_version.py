"""The version, one number for the package and the program in it."""

__version__ = "0.1.0.dev0"
