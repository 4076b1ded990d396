"""Trying an output parser on a text, over HTTP and on the command line."""
