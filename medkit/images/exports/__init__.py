"""Exports: a set in the forms that other tools read, with what they need to know of it."""
