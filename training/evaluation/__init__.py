"""How good a model is, measured on the pictures that its exported files draw."""
