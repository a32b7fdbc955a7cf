"""The rendered service under load, side by side with what people write by hand."""
