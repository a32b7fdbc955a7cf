"""Model shapes that people bring, and changes to them, each the text of a `models.py`."""
