"""The trainer contract, and the run that holds trainers to it."""
