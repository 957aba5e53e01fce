"""Errors, tests, intervals and ranks from stored answers. Plain numbers in, plain numbers out; nothing here prints."""
