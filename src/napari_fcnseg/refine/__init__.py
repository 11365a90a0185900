"""What follows the model: better probabilities, and objects."""

import lazy_loader as _lazy

# The names, listed once, are in __init__.pyi; a random field needs torch, which cutting and joining does not.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
