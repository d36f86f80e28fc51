"""What trainers of neural networks share: fitting, prediction and saving, on any Keras backend.

Keras is imported when something is trained, predicted or read, and medkit does not depend on it.
"""
