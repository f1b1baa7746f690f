"""What of the recipes can only be read with an extra is not looked through for examples without it."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("mmengine") else ["burgerformer_coco/randomness.py"]
